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
    """What the training texts say about a prefix, ignoring case; the fields are the columns of a table."""

    prefix: str
    begins: int
    """Number of training texts that begin with the prefix, perhaps in the middle of a word."""
    holds: int
    """Number of those that have all its words, in any order."""
    of: int
    """Number of all training texts."""
    near: list[str]
    """For a rare prefix: words in at least `RARE` texts that are like its own, with counts, most frequent first."""
    beginnings: list[str]
    """For a rare prefix: likewise, beginnings of one or two words whose last word is similar to one of the prefix."""

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        parts = [f"{shown}: {self.begins:,} of {self.of:,} training texts begin with it, {self.holds:,} have its words"]
        parts += [f"similar frequent words: {', '.join(self.near)}"] if self.near else []
        parts += [f"similar frequent beginnings: {', '.join(self.beginnings)}"] if self.beginnings else []
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
    for i, (text, own) in enumerate(zip(cleaned, words, strict=True)):
        patterns = [pl.col("text").str.contains(rf"\b{word}\b") for word in own]
        patterns = patterns or [pl.col("text").str.contains(text.strip(), literal=True)]  # it has signs alone
        counts.append(pl.all_horizontal(patterns).sum().alias(f"holds {i}"))
    total, *counts = texts.select(pl.len(), *counts).collect(engine="streaming").row(0)
    begins, holds = counts[: len(prefixes)], counts[len(prefixes) :]
    # Frequent words and beginnings, if a prefix is rare
    frequent, openings = {}, {}
    if any(_is_rare(count, total) for count in begins):
        each = pl.col("text").str.extract_all(WORD)
        frequent = _frequent(texts, each)
        openings = _frequent(texts, pl.concat_list(each.list.head(n).list.join(" ") for n in (1, 2)))
    rows = []
    for prefix, own, count, having in zip(prefixes, words, begins, holds, strict=True):
        rare = _is_rare(count, total)
        near = {word: n for word, n in frequent.items() if rare and word not in own and _is_near(word, own)}
        beginnings = {text: n for text, n in openings.items() if rare and _is_near(text.rpartition(" ")[2], own)}
        shown = ([f"{text} ({n:,})" for text, n in some.items()][:MAX_NEAR] for some in (near, beginnings))
        rows.append(Relevance(prefix, count, having, total, *shown))
    return rows


def _is_rare(begins: int, texts: int) -> bool:
    """Whether so few training texts begin with a prefix that the model hardly knows how to continue it."""
    return begins < min(RARE, RARE_SHARE * texts)


def _frequent(texts: pl.LazyFrame, strings: pl.Expr) -> dict[str, int]:
    """Counts of the texts that have each string, for strings in at least `RARE` texts, most frequent first."""
    strings = texts.select(string=strings.list.unique()).explode("string").drop_nulls()
    counts = strings.group_by("string").len().filter(pl.col("len") >= RARE)
    return dict(counts.collect(engine="streaming").sort(-pl.col("len").cast(pl.Int64), "string").iter_rows())


def _is_near(word: str, words: list[str]) -> bool:
    """Whether a word resembles one of others, or equals it."""
    return any(
        min(len(own), len(word)) > 2
        and (own[:MIN_SHARED] == word[:MIN_SHARED] or fuzz.ratio(own, word, score_cutoff=MIN_SIMILARITY) > 0)
        for own in words
    )
