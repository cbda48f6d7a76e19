"""Splits: which papers train the model, which choose when to stop, which are kept for the last measurement."""

import numpy as np

from titlesmith.errors import RequestError

SPLITS = ("train", "valid", "test")


def split(published: np.ndarray, shares: list[float], order: str, seed: int) -> np.ndarray:
    """Cuts papers into train, valid and test.

    Parameters
    ----------
    published
        Day of publication of each paper, as a number, shape (papers,).
    shares
        Three shares that sum to one.
    order
        ``date``: train is older than valid and valid older than test, so that the measurement is of the future;
        ``random``: shuffled by ``seed``.

    Returns
    -------
    numpy.ndarray
        The split of each paper, its place in `SPLITS`, shape (papers,).

    Raises
    ------
    RequestError
        A split would be empty.
    """
    papers = len(published)
    shuffled = np.random.default_rng(seed).permutation(papers)
    ranked = np.argsort(published, kind="stable") if order == "date" else shuffled
    first, second = (round(papers * share) for share in (shares[0], shares[0] + shares[1]))
    if empty := [n for n, size in zip(SPLITS, (first, second - first, papers - second), strict=True) if not size]:
        raise RequestError(
            f"corpus.split: {papers} papers in shares {shares} leave {empty[0]} empty: "
            "harvest more papers or give it a larger share"
        )
    where = np.empty(papers, np.int8)
    where[ranked] = np.repeat(np.arange(3, dtype=np.int8), (first, second - first, papers - second))
    return where
