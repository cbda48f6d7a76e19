"""Novelty: how much of what was generated stands in the training texts."""

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.diversity import ngrams
from titlesmith.evaluate.figures import Figure, MissingError, ratio

NEAR = 0.9  # similarity from which on a text is a near copy
SIZES = (1, 2, 3, 4)


def unseen(corpus: Corpus, texts: list[str]) -> dict[int, set[tuple[str, ...]]]:
    """The n-grams of texts that no training text has, for each n of `SIZES`; train is read in batches."""
    found = {n: {gram for text in texts for gram in ngrams(text, n)} for n in SIZES}
    for batch in corpus.scan("train").select("completion").collect_batches():
        for text in batch.to_series():
            words = text.casefold().split()
            for n, grams in found.items():
                grams.difference_update(zip(*(words[i:] for i in range(n)), strict=False))
    return found


def ngram_novelty(texts: list[str], n: int, new: set[tuple[str, ...]], seed: int) -> Figure:
    """Share of the texts' n-grams that are among the ``new`` ones, which no training text has.

    Raises
    ------
    MissingError
        No text has ``n`` words.
    """
    found = [ngrams(text, n) for text in texts]
    if not any(found):
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    counts = np.array([[sum(gram in new for gram in grams), len(grams)] for grams in found])
    return ratio(*counts.T, seed)
