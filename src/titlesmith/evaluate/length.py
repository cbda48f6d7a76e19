"""Length: how many words the texts have."""

import numpy as np

from titlesmith.evaluate.measurement import Measurement, Measurements, MissingError, mean


def add_lengths(measurements: Measurements, texts: list[str], seed: int) -> None:
    """Adds ``words_mean`` and the percentiles ``words_5``, ``words_50`` and ``words_95``."""
    words = [len(text.split()) for text in texts]
    measurements.add("words_mean", mean, words, seed)
    for percent in (5, 50, 95):
        measurements.add(f"words_{percent}", _percentile, words, percent)


def _percentile(values: list[int], percent: int) -> Measurement:
    if not values:
        raise MissingError("there is no text")
    return Measurement(float(np.percentile(values, percent)))
