"""Copies: how many texts equal a training text, or nearly."""

from titlesmith.evaluate.measurement import Measurements, share
from titlesmith.generate import Nearest

NEAR = 0.9  # similarity of a near copy, at least


def add_copies(measurements: Measurements, texts: list[str], similarities: list[float], nearest: Nearest) -> None:
    """Adds ``copy_rate`` and ``near_copy_rate``.

    A copy equals a training text, case and white space aside. A near copy has a similarity of at least `NEAR` to one.
    """
    measurements.add("copy_rate", share, [nearest.is_copy(text) for text in texts])
    measurements.add("near_copy_rate", share, [similarity >= NEAR for similarity in similarities])
