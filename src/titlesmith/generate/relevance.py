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
    begins: int  #: Training texts that begin with the prefix, perhaps in the middle of a word.
    holds: int  #: Training texts that have all its words, in any order.
    of: int  #: All training texts.
    near: list[str]  #: For a rare prefix: frequent words that are like its own, with counts.

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        text = f"{shown}: {self.begins:,} of {self.of:,} training texts begin with it, {self.holds:,} have its words"
        return f"{text}; similar frequent words: {', '.join(self.near)}" if self.near else text


def relevance(corpus: Corpus, prefixes: list[str]) -> list[Relevance]:
    """The relevance of each prefix but empty ones."""
    texts = corpus.scan("train").select(text=pl.col("completion").str.to_lowercase())
    rows = []
    for prefix in dict.fromkeys(map(plain, prefixes)):
        beginning = corpus.clean_prefix(prefix).lower()
        if not beginning:
            continue
        words = list(dict.fromkeys(pl.Series([beginning]).str.extract_all(WORD)[0]))
        patterns = [pl.col("text").str.contains(rf"\b{word}\b") for word in words]
        patterns = patterns or [pl.col("text").str.contains(beginning.strip(), literal=True)]  # it has signs alone
        counts = {"begins": pl.col("text").str.starts_with(beginning).sum(), "holds": pl.all_horizontal(patterns).sum()}
        total, begins, holds = texts.select(pl.len(), **counts).collect(engine="streaming").row(0)
        is_rare = begins < min(RARE, RARE_SHARE * total)
        rows.append(Relevance(prefix, begins, holds, total, _near_words(texts, words) if is_rare else []))
    return rows


def _near_words(texts: pl.LazyFrame, words: list[str]) -> list[str]:
    """Words in at least `RARE` texts that are like one of ``words``, most frequent first, with counts."""
    found = texts.select(word=pl.col("text").str.extract_all(WORD).list.unique()).explode("word").drop_nulls()
    counts = found.group_by("word").len().filter(pl.col("len") >= RARE).collect(engine="streaming")
    near = [
        f"{word} ({count:,})"
        for word, count in counts.sort("len", "word", descending=[True, False]).iter_rows()
        if word not in words and any(JaroWinkler.similarity(word, own) >= MIN_SIMILARITY for own in words)
    ]
    return near[:MAX_NEAR]
