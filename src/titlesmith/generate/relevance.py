"""Relevance: how often a model met a prefix in its training texts, and which frequent words are near a rare one."""

from dataclasses import dataclass

import polars as pl
from rapidfuzz import fuzz

from titlesmith.corpus import Corpus
from titlesmith.generate.prompts import plain

RARE = 20  # training texts: what fewer have is not frequent
SHARE = 0.01  # of the training texts: what as many begin with is not rare, however few they are
NEAR = 5  # words at most
ALIKE = 75  # similarity in percent from which on words are near
SHARED = 4  # letters at the beginning that make words near
WORD = r"[\p{L}\p{N}]+"


@dataclass(frozen=True)
class Relevance:
    """What the training texts say of a prefix; case does not count.

    Attributes
    ----------
    prefix
        As it is continued: in one line.
    texts
        How many training texts there are.
    begins
        How many begin with it, in the middle of a word too.
    holds
        How many have all its words, in any order.
    near
        Where it is rare: frequent words like its own, with the number of training texts that have them, most
        frequent first; frequent are those that at least `RARE` texts have.
    beginnings
        Where it is rare: as frequent beginnings of one or two words, of which the last is like one of its own or the
        same, with the number of training texts that begin with them, likewise.
    """

    prefix: str
    texts: int
    begins: int
    holds: int
    near: list[tuple[str, int]]
    beginnings: list[tuple[str, int]]

    @property
    def is_rare(self) -> bool:
        """Whether so few training texts begin with it that the model hardly knows how to go on.

        Fewer than `RARE` are few, if they are less than `SHARE` of all too: 14 are few of 2,000, and not of 108.
        """
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
        said = [f"{shown}: {few}, {'but' if self.holds >= RARE else 'and'} {holds}"]
        for what, found in {"words": self.near, "beginnings": self.beginnings}.items():
            said += [f"frequent {what} near it: {', '.join(_counted(found))}"] if found else []
        return "; ".join(said)


def relevance(corpus: Corpus, prefixes: list[str]) -> list[Relevance]:
    """How often each prefix is met in the training texts; empty ones are left out."""
    prefixes = [prefix for prefix in dict.fromkeys(map(plain, prefixes)) if corpus.clean(prefix)]
    if not prefixes:
        return []
    texts = corpus.scan("train").select(text=pl.col("completion").str.to_lowercase())
    begun = {prefix: corpus.clean_prefix(prefix).lower() for prefix in prefixes}
    words = {prefix: _words(text) for prefix, text in begun.items()}
    met = [pl.len()]
    met += [pl.col("text").str.starts_with(text).sum().alias(f"begins {prefix}") for prefix, text in begun.items()]
    met += [_have(words[prefix], text.strip()).sum().alias(f"holds {prefix}") for prefix, text in begun.items()]
    total, *counts = texts.select(met).collect(engine="streaming").row(0)
    frequent, opening = {}, {}
    if any(_is_rare(begins, total) for begins in counts[: len(prefixes)]):
        frequent, opening = _frequent(texts), _frequent(texts, beginnings=True)
    found = []
    for prefix, begins, holds in zip(prefixes, counts[: len(prefixes)], counts[len(prefixes) :], strict=True):
        near, beginnings = [], []
        if _is_rare(begins, total):
            own = words[prefix]
            near = _most({w: n for w, n in frequent.items() if w not in own and _is_near(w, own)})
            beginnings = _most({b: n for b, n in opening.items() if b and _is_near(b.split()[-1], own)})
        found.append(Relevance(prefix, total, begins, holds, near, beginnings))
    return found


def _is_rare(begins: int, texts: int) -> bool:
    return begins < min(RARE, SHARE * texts)


def _counted(found: list[tuple[str, int]]) -> list[str]:
    return [f"{words} ({count:,})" for words, count in found]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(pl.Series([text]).str.extract_all(WORD)[0]))


def _have(words: list[str], text: str) -> pl.Expr:
    """Which texts have all words; or, where there are none but signs, the signs."""
    found = [pl.col("text").str.contains(rf"\b{word}\b") for word in words]
    return pl.all_horizontal(found or [pl.col("text").str.contains(text, literal=True)])


def _frequent(texts: pl.LazyFrame, beginnings: bool = False) -> dict[str, int]:
    """Words that at least `RARE` texts have, or one or two words that they begin with, and how many do."""
    words = pl.col("text").str.extract_all(WORD)
    if beginnings:
        words = pl.concat_list(words.list.head(n).list.join(" ") for n in (1, 2))
    found = texts.select(words=words.list.unique()).explode("words").drop_nulls()
    return dict(found.group_by("words").len().filter(pl.col("len") >= RARE).collect(engine="streaming").iter_rows())


def _is_near(word: str, words: list[str]) -> bool:
    """Whether a word is like one of others, or the same."""
    return any(
        min(len(own), len(word)) > 2
        and (own[:SHARED] == word[:SHARED] or fuzz.ratio(own, word, score_cutoff=ALIKE) > 0)
        for own in words
    )


def _most(found: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))[:NEAR]
