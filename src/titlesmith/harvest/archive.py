"""Source ``archive``: the ArXiV Archive's tab-separated metadata (R. Stuart Geiger, doi 10.5281/zenodo.2533436)."""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.harvest import csv
from titlesmith.harvest.schema import Faults

COLUMNS = {"id": "arxiv_id", "authors": "author_text", "primary_category": "primary_cat", "published": "created"}
COLUMNS |= {name: name for name in ("title", "abstract", "categories", "updated", "doi")}


def identifier(text: str) -> str:
    """Repairs an arXiv identifier that was stored as a number (``1510.0898300000001`` is 1510.08983)."""
    if not re.fullmatch(r"\d{3,4}\.\d+", text):
        return text
    # Numbers have four digits after the point until the end of 2014 and five from 2015 on
    return f"{float(text):010.5f}" if float(text) > 1500 else f"{float(text):09.4f}"


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]`` like source ``csv``: a table or a folder of them."""
    for table in csv.read(settings | {"columns": COLUMNS}, folder, faults):
        papers = table.select(pl.col(*COLUMNS, "^comments$"))
        yield papers.with_columns(pl.col("id").map_elements(identifier, pl.String))
