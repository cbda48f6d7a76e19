"""Source ``archive``: the ArXiV Archive's tab-separated metadata (R. Stuart Geiger, doi 10.5281/zenodo.2533436)."""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import inputs
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.rows import Rows

COLUMNS = ("arxiv_id", "title", "abstract", "author_text", "categories", "primary_cat", "created", "updated", "doi")


def identifier(text: str) -> str:
    """Repairs an arXiv identifier that was stored as a number (``1510.0898300000001`` is 1510.08983).

    Numbers have four digits after the point until the end of 2014 and five from 2015 on; identifiers such as
    ``cmp-lg/9404002`` stay unchanged.
    """
    if not re.fullmatch(r"\d{3,4}\.\d+", text):
        return text
    return f"{float(text):010.5f}" if float(text) > 1500 else f"{float(text):09.4f}"


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``: a table or a folder of them, plain, gzip, xz or zip.

    Rows with a wrong number of columns, without an id or with an invalid date are counted in ``faults``.
    """
    published, updated = (pl.col(name).str.to_date("%Y-%m-%d", strict=False) for name in ("created", "updated"))
    rules = [
        ("no id", "title", pl.col("arxiv_id").is_not_null()),
        ("invalid date", "created", published.is_not_null()),
        ("invalid date", "updated", pl.col("updated").is_null() | updated.is_not_null()),
    ]
    for name, rows in tables(settings, faults):
        for table in rows.batches():
            yield faults.sift(table, name, rules).select(
                id=pl.col("arxiv_id").map_elements(identifier, pl.String),
                title="title",
                abstract="abstract",
                authors=pl.col("author_text").str.split(", "),
                categories=pl.col("categories").str.split(","),
                primary_category="primary_cat",
                published=published,
                updated=updated,
                doi="doi",
                comments="comments" if "comments" in table.columns else pl.lit(None),
            )


def tables(settings: dict, faults: Faults) -> Iterator[tuple[str, Rows]]:
    """Yields name and rows of each file (RequestError: it is not a table of the ArXiV Archive)."""
    for name, text in inputs.opened(inputs.find(settings, folder=True), settings.get("encoding", "utf-8")):
        rows = Rows(text, name, faults, delimiter="\t")
        if missing := set(COLUMNS) - set(rows.header):
            lacks = f"{name} lacks {', '.join(sorted(missing))}"
            raise RequestError(f"harvest.path: {settings['path']} is not a table of the ArXiV Archive: {lacks}")
        yield name, rows
