"""Splits: train for learning, valid for deciding when to stop, test for the final measurement."""

import numpy as np

from titlesmith.errors import RequestError

SPLITS = ("train", "valid", "test")


def split(published: np.ndarray, shares: list[float], order: str, seed: int) -> np.ndarray:
    """The split of each paper as an index of `SPLITS`, shape (papers,); a RequestError if a split would be empty.

    ``published`` has the day of each paper as a number, shape (papers,). With ``order`` ``date``, train is older than
    valid and valid older than test, so that the model is measured on the future; with ``random``, ``seed`` shuffles.
    """
    num_papers = len(published)
    shuffled = np.random.default_rng(seed).permutation(num_papers)
    ranked = np.argsort(published, kind="stable") if order == "date" else shuffled
    first, second = (round(num_papers * share) for share in (shares[0], shares[0] + shares[1]))
    sizes = (first, second - first, num_papers - second)
    if 0 in sizes:
        raise RequestError(
            f"corpus.split: {num_papers} papers in shares {shares} leave {SPLITS[sizes.index(0)]} empty: "
            "harvest more papers or give it a larger share"
        )
    splits = np.empty(num_papers, np.int8)
    splits[ranked] = np.repeat(np.arange(3, dtype=np.int8), sizes)
    return splits
