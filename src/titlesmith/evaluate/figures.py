"""Figures: what is measured, with its 95% interval, or why it could not be measured."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
BLOCK = 2**22  # counts that are held at once


class MissingError(Exception):
    """A figure cannot be measured; the message says why."""


@dataclass(frozen=True)
class Figure:
    """A value and, where there is one, its 95% interval."""

    value: float
    interval: tuple[float, float] | None = None


class Figures:
    """Figures by name.

    Attributes
    ----------
    values
        Each figure, None where it could not be measured.
    intervals
        The lower and the upper end of the 95% interval, of figures that have one.
    missing
        Why, of figures that are None.
    """

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.intervals: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, measure: Callable[..., Figure], *arguments: object) -> None:
        """Measures a figure."""
        try:
            figure = measure(*arguments)
            if not all(map(math.isfinite, (figure.value, *(figure.interval or ())))):
                raise MissingError("it is not finite")
        except MissingError as error:
            self.values[name], self.missing[name] = None, str(error)
            return
        self.values[name] = figure.value
        if figure.interval:
            self.intervals[name] = list(figure.interval)


def ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> Figure:
    """The ratio of two sums over documents, with a percentile bootstrap interval over documents (Efron 1979).

    Documents are drawn again with replacement, as many as there are, `RESAMPLES` times.

    Parameters
    ----------
    numerators, denominators
        What each document adds to the two sums, shape (documents,).
    seed
        Of the draws.

    Raises
    ------
    MissingError
        The denominators sum to zero.
    """
    added = np.stack([numerators, denominators], axis=1).astype(np.float64)
    size = len(added)
    if not size or not added[:, 1].sum():
        raise MissingError("there is nothing to be measured on")
    rng, found = np.random.default_rng(seed), []
    for start in range(0, RESAMPLES, rows := max(1, BLOCK // size)):
        counts = rng.multinomial(size, np.full(size, 1 / size), size=min(rows, RESAMPLES - start))
        sums = counts @ added
        found.append(sums[sums[:, 1] > 0])
    low, high = np.quantile(np.divide(*np.concatenate(found).T), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above, below = added.sum(axis=0)
    return Figure(float(above / below), (float(low), float(high)))


def mean(values: list[float], seed: int) -> Figure:
    """The mean of a value of each document, with `ratio`'s interval."""
    return ratio(np.array(values), np.ones(len(values)), seed)


def share(found: list[bool]) -> Figure:
    """The share of texts of which something is true, with Wilson's score interval (1927).

    That interval has a length where the share is 0 or 1 too, where a bootstrap's has none.

    Raises
    ------
    MissingError
        There is no text.
    """
    from scipy.stats import binomtest  # which takes a second to import

    if not found:
        raise MissingError("there is no text")
    test = binomtest(sum(found), len(found))
    return Figure(test.statistic, tuple(map(float, test.proportion_ci(LEVEL, "wilson"))))


def spread(size: int, most: int) -> np.ndarray:
    """Numbers of at most ``most`` things among ``size``, evenly spread, in order."""
    return np.arange(size) if size <= most else np.linspace(0, size - 1, most).round().astype(int)
