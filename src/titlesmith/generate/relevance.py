"""Relevance: how many training texts contain a prefix, and which frequent words resemble a rare one."""

from dataclasses import dataclass

import polars as pl
from rapidfuzz.distance import JaroWinkler

from titlesmith.corpus import Corpus
from titlesmith.generate.prompts import plain

RARE, RARE_SHARE = 20, 0.01  # a prefix is rare if fewer texts, and a smaller share of them, begin with it
MAX_NEAR = 5  # words
MIN_SIMILARITY = 0.83  # of near words, 0 to 1
WORD = r"[\p{L}\p{N}]+"


@dataclass(frozen=True)
class Relevance:
    """What the training texts say about a prefix, ignoring case; a row of a table."""

    prefix: str
    begins: int
    """Number of training texts that begin with the prefix, perhaps in the middle of a word."""
    holds: int
    """Number of those that have all its words, in any order."""
    of: int
    """Number of all training texts."""
    near: list[str]
    """For a rare prefix: frequent words that are like its own, with counts."""

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        text = f"{shown}: {self.begins:,} of {self.of:,} training texts begin with it, {self.holds:,} have its words"
        return f"{text}; similar frequent words: {', '.join(self.near)}" if self.near else text


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
    # Words in at least `RARE` texts, most frequent first, if a prefix is rare
    rare = min(RARE, RARE_SHARE * total)
    frequent = {}
    if min(begins) < rare:
        found = texts.select(word=pl.col("text").str.extract_all(WORD).list.unique()).explode("word").drop_nulls()
        found = found.group_by("word").len().filter(pl.col("len") >= RARE).collect(engine="streaming")
        frequent = dict(found.sort("len", "word", descending=[True, False]).iter_rows())
    rows = []
    for prefix, own, count, having in zip(prefixes, words, begins, holds, strict=True):
        near = []
        for word, n in frequent.items() if count < rare else ():
            if word not in own and any(JaroWinkler.similarity(word, other) >= MIN_SIMILARITY for other in own):
                near.append(f"{word} ({n:,})")
        rows.append(Relevance(prefix, count, having, total, near[:MAX_NEAR]))
    return rows
