"""Source ``archive``: the ArXiV Archive's tab-separated metadata (R. Stuart Geiger, doi 10.5281/zenodo.2533436)."""

import lzma
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import Faults
from titlesmith.run import root

COLUMNS = ("arxiv_id", "title", "abstract", "author_text", "categories", "primary_cat", "created", "updated", "doi")


def identifier(text: str) -> str:
    """Repairs an arXiv identifier that was stored as a number (``1510.0898300000001`` is 1510.08983).

    Numbers have four digits behind the point until the end of 2014 and five from 2015 on; the older form
    ``cmp-lg/9404002`` stays as it is.
    """
    if not re.fullmatch(r"\d{3,4}\.\d+", text):
        return text
    return f"{float(text):010.5f}" if float(text) > 1500 else f"{float(text):09.4f}"


def papers(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``, plain or xz, into the columns of `titlesmith.harvest.SCHEMA`.

    Raises
    ------
    RequestError
        The file is missing, is no such table, or holds a date that is none.
    """
    path = root() / settings["path"]
    try:
        content = (lzma.open if path.suffix == ".xz" else open)(path, "rb").read()
        table = pl.read_csv(content, separator="\t", infer_schema=False)
    except (OSError, EOFError, lzma.LZMAError, pl.exceptions.PolarsError) as error:
        raise RequestError(f"harvest.path: {path} cannot be read as tab-separated text: {error}") from None
    if missing := set(COLUMNS) - set(table.columns):
        raise RequestError(
            f"harvest.path: {path} is no table of the ArXiV Archive: it lacks {', '.join(sorted(missing))}"
        )
    try:
        yield table.select(
            id=pl.col("arxiv_id").map_elements(identifier, pl.String),
            title="title",
            abstract="abstract",
            authors=pl.col("author_text").str.split(", "),
            categories=pl.col("categories").str.split(","),
            primary_category="primary_cat",
            published=pl.col("created").str.to_date("%Y-%m-%d"),
            updated=pl.col("updated").str.to_date("%Y-%m-%d"),
            doi="doi",
            comments="comments" if "comments" in table.columns else pl.lit(None),
        )
    except pl.exceptions.PolarsError as error:
        raise RequestError(f"harvest.path: {path}: {error}") from None
