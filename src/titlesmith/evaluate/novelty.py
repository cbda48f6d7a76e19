"""Novelty: how many n-grams of the texts are in no training text."""

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.measurement import Measurement, MissingError, ratio
from titlesmith.evaluate.ngrams import ngrams

SIZES = (1, 2, 3, 4)


def unseen(corpus: Corpus, texts: list[str]) -> dict[int, set[tuple[str, ...]]]:
    """The n-grams of texts that no training text has, for each n of `SIZES`; train is read in batches."""
    new = {n: {gram for text in texts for gram in ngrams(text, n)} for n in SIZES}
    for batch in corpus.scan("train").select("completion").collect_batches():
        for text in batch.to_series():
            words = text.casefold().split()
            for n, grams in new.items():
                grams.difference_update(zip(*(words[i:] for i in range(n)), strict=False))
    return new


def ngram_novelty(texts: list[str], n: int, new: set[tuple[str, ...]], seed: int) -> Measurement:
    """Share of the texts' n-grams that are among the ``new`` ones, which no training text has.

    Raises
    ------
    MissingError
        No text has ``n`` words.
    """
    grams = [ngrams(text, n) for text in texts]
    if not any(grams):
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    counts = np.array([[sum(gram in new for gram in of), len(of)] for of in grams])
    return ratio(*counts.T, seed)
