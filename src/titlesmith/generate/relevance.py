"""Relevance: how many training texts contain a prefix, and which frequent words resemble a rare one."""

from dataclasses import dataclass

import polars as pl
from rapidfuzz import fuzz

from titlesmith.corpus import Corpus
from titlesmith.generate.prompts import plain

RARE, RARE_SHARE = 20, 0.01  # a prefix is rare if fewer texts, and a smaller share of them, begin with it
MAX_NEAR = 5  # words
MIN_SIMILARITY, MIN_SHARED = 75, 4  # near words: similarity in percent, or equal letters at the beginning
WORD = r"[\p{L}\p{N}]+"


@dataclass(frozen=True)
class Relevance:
    """What the training texts say about a prefix, ignoring case.

    Attributes
    ----------
    prefix
        In one line.
    texts
        Number of training texts.
    begins
        How many begin with the prefix, perhaps in the middle of a word.
    holds
        How many have all its words, in any order.
    near
        For a rare prefix: frequent words (in at least `RARE` texts) like its own, with counts, most frequent first.
    beginnings
        For a rare prefix: likewise, frequent beginnings of one or two words whose last word is like one of its own.
    """

    prefix: str
    texts: int
    begins: int
    holds: int
    near: list[tuple[str, int]]
    beginnings: list[tuple[str, int]]

    @property
    def is_rare(self) -> bool:
        """Whether so few training texts begin with it that the model hardly knows how to continue it."""
        return _is_rare(self.begins, self.texts)

    @property
    def row(self) -> dict:
        """For a table."""
        near = {"near": _counted(self.near), "beginnings": _counted(self.beginnings)}
        return {"prefix": self.prefix, "begins": self.begins, "holds": self.holds, "of": self.texts} | near

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        holds = f"{self.holds:,} {'has' if self.holds == 1 else 'have'} its words"
        if not self.is_rare:
            return f"{shown}: begins {self.begins:,} of {self.texts:,} training texts; {holds}"
        few = f"few of {self.texts:,} training texts begin with it ({self.begins:,})"
        if not self.begins:
            few = f"none of {self.texts:,} training texts begins with it"
        parts = [f"{shown}: {few}, {'but' if self.holds >= RARE else 'and'} {holds}"]
        for kind, counts in {"words": self.near, "beginnings": self.beginnings}.items():
            parts += [f"frequent {kind} near it: {', '.join(_counted(counts))}"] if counts else []
        return "; ".join(parts)


def relevance(corpus: Corpus, prefixes: list[str]) -> list[Relevance]:
    """The relevance of each prefix but empty ones."""
    prefixes = [prefix for prefix in dict.fromkeys(map(plain, prefixes)) if corpus.clean(prefix)]
    if not prefixes:
        return []
    # Count the training texts that begin with each prefix, and those that have its words, in one pass
    texts = corpus.scan("train").select(text=pl.col("completion").str.to_lowercase())
    cleaned = [corpus.clean_prefix(prefix).lower() for prefix in prefixes]
    words = [list(dict.fromkeys(pl.Series([text]).str.extract_all(WORD)[0])) for text in cleaned]
    counts = [pl.col("text").str.starts_with(text).sum().alias(f"begins {i}") for i, text in enumerate(cleaned)]
    for i, own in enumerate(words):
        counts.append(_has(own, cleaned[i].strip()).sum().alias(f"holds {i}"))
    total, *counts = texts.select(pl.len(), *counts).collect(engine="streaming").row(0)
    begins, holds = counts[: len(prefixes)], counts[len(prefixes) :]
    # Frequent words and beginnings, if they are needed
    frequent, openings = {}, {}
    if any(_is_rare(count, total) for count in begins):
        each = pl.col("text").str.extract_all(WORD)
        frequent = _frequent(texts, each)
        openings = _frequent(texts, pl.concat_list(each.list.head(n).list.join(" ") for n in (1, 2)))
    found = []
    for i, prefix in enumerate(prefixes):
        rare, own = _is_rare(begins[i], total), words[i]
        near = {word: n for word, n in frequent.items() if rare and word not in own and _is_near(word, own)}
        opening = {text: n for text, n in openings.items() if rare and text and _is_near(text.split()[-1], own)}
        found.append(Relevance(prefix, total, begins[i], holds[i], _top(near), _top(opening)))
    return found


def _is_rare(begins: int, texts: int) -> bool:
    return begins < min(RARE, RARE_SHARE * texts)


def _counted(counts: list[tuple[str, int]]) -> list[str]:
    return [f"{words} ({count:,})" for words, count in counts]


def _has(words: list[str], text: str) -> pl.Expr:
    """Which texts have all words; of a prefix without words, which texts have it."""
    found = [pl.col("text").str.contains(rf"\b{word}\b") for word in words]
    return pl.all_horizontal(found or [pl.col("text").str.contains(text, literal=True)])


def _frequent(texts: pl.LazyFrame, strings: pl.Expr) -> dict[str, int]:
    """Counts of the texts that have each string, for strings in at least `RARE` texts."""
    strings = texts.select(string=strings.list.unique()).explode("string").drop_nulls()
    counts = strings.group_by("string").len().filter(pl.col("len") >= RARE)
    return dict(counts.collect(engine="streaming").iter_rows())


def _is_near(word: str, words: list[str]) -> bool:
    """Whether a word resembles one of others, or equals it."""
    return any(
        min(len(own), len(word)) > 2
        and (own[:MIN_SHARED] == word[:MIN_SHARED] or fuzz.ratio(own, word, score_cutoff=MIN_SIMILARITY) > 0)
        for own in words
    )


def _top(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_NEAR]
