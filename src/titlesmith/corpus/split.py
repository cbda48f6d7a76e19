"""Splits: which papers train the model, which choose when to stop, which are kept for the last measurement."""

import polars as pl

from titlesmith.errors import RequestError

SPLITS = ("train", "valid", "test")


def split(papers: pl.DataFrame, shares: list[float], order: str, seed: int) -> dict[str, pl.DataFrame]:
    """Cuts papers into train, valid and test.

    Parameters
    ----------
    papers
        Distinct papers with columns ``published`` and ``id``.
    shares
        Three shares that sum to one.
    order
        ``date``: train is older than valid and valid older than test, so that the measurement is of the future;
        ``random``: shuffled by ``seed``.

    Raises
    ------
    RequestError
        A split would be empty.
    """
    papers = papers.sort("published", "id", nulls_last=False)
    if order == "random":
        papers = papers.sample(fraction=1, shuffle=True, seed=seed)
    first, second = (round(papers.height * share) for share in (shares[0], shares[0] + shares[1]))
    cut = (papers[:first], papers[first:second], papers[second:])
    if empty := [name for name, rows in zip(SPLITS, cut, strict=True) if rows.is_empty()]:
        raise RequestError(
            f"corpus.split: {papers.height} papers in shares {shares} leave {empty[0]} empty: "
            "harvest more papers or give it a larger share"
        )
    return dict(zip(SPLITS, cut, strict=True))
