"""Measurements: values with 95% intervals, or the reasons why they could not be measured."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
NOTHING = "there is nothing to be measured on"


class MissingError(Exception):
    """A metric cannot be measured; the message says why."""


@dataclass(frozen=True)
class Measurement:
    """A value, and its 95% interval where it has one."""

    value: float
    interval: tuple[float, float] | None = None


class Measurements:
    """Measurements by name: ``values``, ``intervals`` of those that have one, ``missing`` reasons of values of None."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.intervals: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, measure: Callable[..., Measurement], *arguments: object) -> None:
        """Calls ``measure`` and records its result, or why it has none."""
        try:
            measured = measure(*arguments)
            if not np.isfinite([measured.value, *(measured.interval or ())]).all():
                raise MissingError("it is not finite")
        except MissingError as error:
            self.skip(name, str(error))
            return
        self.values[name] = measured.value
        if measured.interval:
            self.intervals[name] = list(measured.interval)

    def skip(self, name: str, reason: str) -> None:
        """Records why a metric is not measured."""
        self.values[name], self.missing[name] = None, reason

    def to_dict(self) -> dict:
        """The values by name, ``intervals`` and ``missing``, as metrics.json has them."""
        return {**self.values, "intervals": self.intervals, "missing": self.missing}


def ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> Measurement:
    """The ratio of two sums over documents, with a percentile bootstrap interval over documents (Efron 1979).

    The arguments are what each document adds to the sums, shape (documents,), and the seed of the resamplings.
    """
    added = np.stack([numerators, denominators], axis=1).astype(np.float64)
    size = len(added)
    if not size or not added[:, 1].sum():
        raise MissingError(NOTHING)
    # How often each document is in each resample
    counts = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    sums = counts @ added
    sums = sums[sums[:, 1] > 0]
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above, below = added.sum(axis=0)
    return Measurement(float(above / below), (float(low), float(high)))


def mean(values: list[float], seed: int) -> Measurement:
    """The mean of one value per document, with the interval of `ratio`."""
    return ratio(np.array(values), np.ones(len(values)), seed)


def share(flags: list[bool]) -> Measurement:
    """The share of texts with a property, with Wilson's score interval (1927), which has a width at 0 and 1 too."""
    from scipy.stats import binomtest  # takes a second to import

    if not flags:
        raise MissingError(NOTHING)
    test = binomtest(sum(flags), len(flags))
    return Measurement(test.statistic, tuple(map(float, test.proportion_ci(LEVEL, "wilson"))))
