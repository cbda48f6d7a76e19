"""Source ``snapshot``: arXiv's metadata from Kaggle, one JSON object per line."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import inputs
from titlesmith.harvest.faults import LINE, Faults, at

BLOCK = 8 << 20  # bytes of lines parsed together
# The first version's date, or its name in snapshots that keep only the names
FIRST = r'^\[(?:\{[^{}]*?"created": ?)?"([^"]*)"'
MONTH = r"^(?:[a-z-]+(?:\.[A-Z]{2})?/)?(\d{2})(\d{2})"  # in which an identifier was given
SCHEMA = {  # a list or an object in a column of text is that text in JSON
    "id": pl.String,
    "authors": pl.String,
    "authors_parsed": pl.List(pl.List(pl.String)),  # last name, first names, suffix
    "title": pl.String,
    "abstract": pl.String,
    "categories": pl.String,
    "versions": pl.String,
    "update_date": pl.String,
    "doi": pl.String,
    "journal-ref": pl.String,
    "comments": pl.String,
}


def check(settings: dict) -> None:
    """Checks that one of the first lines is a JSON object with an id (RequestError)."""
    path = inputs.find(settings)
    for name, stream in inputs.opened(path):
        start = [line for line in stream.read(1 << 20).split(b"\n")[:100] if line.strip()]
        if not any(map(_is_record, start)):
            raise RequestError(
                f"harvest.path: {path} is not a snapshot: no JSON object with an id is among the first lines; "
                + (at(name, 1, start[0]) if start else f"{name} is empty")
            )


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "id" in record


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; the date of publication is that of the first version.

    Some snapshots, such as those of arxiv-public-datasets, have only the names of versions: then the date is the first
    day of the month in the identifier. Lines that are not the JSON object of a paper, lack an id or have an invalid
    date are counted in ``faults``.
    """
    for name, stream in inputs.opened(inputs.find(settings)):
        first = 1
        while block := stream.read(BLOCK):
            block += stream.readline()
            block += b"" if block.endswith(b"\n") else b"\n"
            if tables := list(_parsed(block, first, name, faults)):
                yield _converted(pl.concat(tables), name, faults)
            first += block.count(b"\n")


def _parsed(block: bytes, first: int, name: str, faults: Faults) -> Iterator[pl.DataFrame]:
    """The records with their line numbers. A block that fails is parsed in halves, so that only bad lines are lost."""
    lines = block.count(b"\n")
    try:
        table = pl.read_ndjson(block, schema=SCHEMA)
    except pl.exceptions.PolarsError:
        table = None
        if lines == 1:
            faults.add("no JSON object of a paper", at(name, first, block))
    if table is not None and table.height == lines:
        yield table.with_row_index(LINE, first)
    elif lines > 1:  # an empty line makes no row
        middle = (block.rfind(b"\n", 0, len(block) // 2) + 1) or (block.index(b"\n") + 1)
        yield from _parsed(block[:middle], first, name, faults)
        yield from _parsed(block[middle:], first + block.count(b"\n", 0, middle), name, faults)


def _converted(table: pl.DataFrame, name: str, faults: Faults) -> pl.DataFrame:
    listed = pl.col("versions").str.starts_with("[").fill_null(True)
    table = faults.sift(table, listed, "no JSON object of a paper", "versions", name)
    table = table.with_columns(created=pl.col("versions").str.extract(FIRST))
    day = pl.col("created").str.extract(r"^\w{3}, (\d{1,2} \w{3} \d{4}) ")  # Mon, 2 Apr 2007 19:18:42 GMT
    month = pl.col("id").str.extract_groups(MONTH).struct
    century = pl.when(month.field("1") > "90").then(pl.lit("19")).otherwise(pl.lit("20"))
    named = pl.when(pl.col("created").str.contains(r"^v?\d*$")).then(century + month.field("1") + month.field("2"))
    table = table.with_columns(
        published=pl.coalesce(
            day.str.to_date("%d %b %Y", strict=False),
            pl.col("created").str.to_date("%Y-%m-%d", strict=False),
            (named + "01").str.to_date("%Y%m%d", strict=False),
        ),
        updated=pl.col("update_date").str.to_date("%Y-%m-%d", strict=False),
    )
    table = faults.sift(table, pl.col("id").str.len_bytes() > 0, "no id", "title", name)
    table = faults.sift(table, pl.col("published").is_not_null(), "invalid date", "created", name)
    dated = pl.col("update_date").is_null() | pl.col("updated").is_not_null()
    table = faults.sift(table, dated, "invalid date", "update_date", name)
    names = pl.element().list.slice(0, 2).list.reverse().list.join(" ").str.strip_chars()
    categories = pl.col("categories").str.extract_all(r'[^\s\[\]",]+')
    quoted = pl.col("authors").str.strip_prefix('["').str.strip_suffix('"]').str.split('", "')
    authors = pl.when(pl.col("authors").str.starts_with('["')).then(quoted).otherwise(pl.col("authors").str.split(", "))
    return table.select(
        "id",
        "title",
        "abstract",
        authors=pl.coalesce(pl.col("authors_parsed").list.eval(names), authors),
        categories=categories,
        primary_category=categories.list.first(),
        published="published",
        updated="updated",
        doi="doi",
        journal_ref="journal-ref",
        comments="comments",
    )
