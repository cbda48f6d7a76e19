"""Distinct-n: how many of the texts' n-grams are no repeats."""

from titlesmith.evaluate.measurement import Measurement, MissingError
from titlesmith.evaluate.ngrams import ngrams


def distinct(texts: list[str], n: int, maximum: int | None = None) -> Measurement:
    """Share of distinct n-grams among the texts' first ``maximum`` n-grams (Li et al. 2016), or a MissingError.

    The share falls with the number of n-grams, so only values of equally many are comparable. It has no bootstrap
    interval: a text that is resampled twice repeats itself.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)][:maximum]
    if not grams:
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    return Measurement(len(set(grams)) / len(grams))
