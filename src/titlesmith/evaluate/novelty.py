"""Novelty: how many n-grams of the texts are in no training text."""

from collections.abc import Iterable

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.distinct import ngrams
from titlesmith.evaluate.measurement import Measurement, MissingError, ratio

SIZES = range(1, 9)


def unseen(corpus: Corpus, texts: list[str]) -> dict[int, set[tuple[str, ...]]]:
    """The n-grams of texts that no training text has, for each n of `SIZES`; train is read in batches."""
    new = {n: {gram for text in texts for gram in ngrams(text, n)} for n in SIZES}
    known: dict[int, set[tuple[str, ...]]] = {n: set() for n in SIZES}
    for batch in corpus.scan("train").select("completion").collect_batches():
        for text in batch.to_series():
            words = text.casefold().split()
            starts: Iterable[int] = range(len(words))
            for n in SIZES:  # an n-gram can only be one of the texts' where its first n - 1 words are
                starts = [i for i in starts if tuple(words[i : i + n]) in new[n]]
                known[n].update(tuple(words[i : i + n]) for i in starts)
    return {n: new[n] - known[n] for n in SIZES}


def ngram_novelty(texts: list[str], n: int, new: set[tuple[str, ...]], seed: int) -> Measurement:
    """Share of the texts' n-grams that are ``new``, in no training text; MissingError if no text has ``n`` words."""
    grams = [ngrams(text, n) for text in texts]
    if not any(grams):
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    counts = np.array([[sum(gram in new for gram in of), len(of)] for of in grams])
    return ratio(*counts.T, seed)
