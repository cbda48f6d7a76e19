"""Held-out documents: what generated texts are compared with."""

import numpy as np
import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import evenly_spread

SPLITS = ("valid", "test")  # that the model does not learn from


def documents_at(corpus: Corpus, split: str, chosen: np.ndarray) -> pl.DataFrame:
    """``id prompt completion`` of the documents of a split with these indices, in ascending order."""
    rows = corpus.scan(split).with_row_index().filter(pl.col("index").is_in(chosen.tolist()))
    return rows.select("id", "prompt", "completion").collect()


def held_out_texts(corpus: Corpus, maximum: int) -> list[str]:
    """Completions of test papers, at most ``maximum``, evenly spread in the split's order."""
    chosen = evenly_spread(len(corpus.documents("test")), maximum)
    return documents_at(corpus, "test", chosen)["completion"].to_list()


def two_samples(corpus: Corpus, maximum: int, seed: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Ids and completions of two random samples of held-out papers, equally many and at most ``maximum`` each."""
    papers = pl.concat([corpus.scan(name).select("id", "completion") for name in SPLITS]).collect()
    half = min(len(papers) // 2, maximum)
    rows = papers.sample(2 * half, shuffle=True, seed=seed).rows()
    return rows[:half], rows[half:]
