"""Relevance: how often a model met a prefix in its training texts, and which frequent words are near a rare one."""

from dataclasses import dataclass

import polars as pl
from rapidfuzz import fuzz

from titlesmith.corpus import Corpus

RARE = 20  # training texts that begin with it, below which a prefix is rare, or that have it, below which a word is
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
        As it was given.
    texts
        How many training texts there are.
    begins
        How many begin with it, in the middle of a word too.
    holds
        How many have all its words, in any order.
    near
        Where it is rare: frequent words like its own, with the number of training texts that have them, most
        frequent first.
    """

    prefix: str
    texts: int
    begins: int
    holds: int
    near: list[tuple[str, int]]

    @property
    def is_rare(self) -> bool:
        """Whether so few training texts begin with it that the model hardly knows how to go on."""
        return self.begins < RARE

    @property
    def row(self) -> dict:
        """For a table."""
        near = [f"{word} ({count:,})" for word, count in self.near]
        return {"prefix": self.prefix, "begins": self.begins, "holds": self.holds, "of": self.texts, "near": near}

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        rare = ", which is rare" if self.is_rare else ""
        near = ", ".join(f"{word} ({count:,})" for word, count in self.near)
        return (
            f"{shown}: begins {self.begins:,} of {self.texts:,} training texts{rare}; {self.holds:,} have its words"
            + (f"; frequent words near it: {near}" if near else "")
        )


def relevance(corpus: Corpus, prefixes: list[str]) -> list[Relevance]:
    """How often each prefix is met in the training texts; empty ones are left out."""
    prefixes = [prefix for prefix in dict.fromkeys(prefixes) if corpus.clean(prefix)]
    if not prefixes:
        return []
    texts = corpus.scan("train").select(text=pl.col("completion").str.to_lowercase())
    begun = {prefix: corpus.beginning(prefix).lower() for prefix in prefixes}
    words = {prefix: _words(text) for prefix, text in begun.items()}
    met = [pl.len()]
    met += [pl.col("text").str.starts_with(text).sum().alias(f"begins {prefix}") for prefix, text in begun.items()]
    met += [_have(words[prefix], text.strip()).sum().alias(f"holds {prefix}") for prefix, text in begun.items()]
    total, *counts = texts.select(met).collect(engine="streaming").row(0)
    frequent = _frequent(texts) if min(counts[: len(prefixes)]) < RARE else {}
    return [
        Relevance(prefix, total, begins, holds, _near(words[prefix], frequent) if begins < RARE else [])
        for prefix, begins, holds in zip(prefixes, counts[: len(prefixes)], counts[len(prefixes) :], strict=True)
    ]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(pl.Series([text]).str.extract_all(WORD)[0]))


def _have(words: list[str], text: str) -> pl.Expr:
    """Which texts have all words; or, where there are none but signs, the signs."""
    found = [pl.col("text").str.contains(rf"\b{word}\b") for word in words]
    return pl.all_horizontal(found or [pl.col("text").str.contains(text, literal=True)])


def _frequent(texts: pl.LazyFrame) -> dict[str, int]:
    """Words that at least `RARE` texts have, and how many do."""
    words = texts.select(word=pl.col("text").str.extract_all(WORD).list.unique()).explode("word").drop_nulls()
    return dict(words.group_by("word").len().filter(pl.col("len") >= RARE).collect(engine="streaming").iter_rows())


def _near(words: list[str], frequent: dict[str, int]) -> list[tuple[str, int]]:
    found = {
        other
        for word in words
        for other in frequent
        if other not in words
        and (word[:SHARED] == other[:SHARED] or fuzz.ratio(word, other, score_cutoff=ALIKE))
        and min(len(word), len(other)) > 2
    }
    return sorted(((word, frequent[word]) for word in found), key=lambda pair: (-pair[1], pair[0]))[:NEAR]
