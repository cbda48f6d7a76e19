"""Source ``snapshot``: arXiv's metadata as Kaggle publishes it, as JSON lines, Parquet or Arrow."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

import polars as pl

from titlesmith.errors import shorten
from titlesmith.harvest import inputs
from titlesmith.harvest.schema import LINE, Faults

BLOCK = 8 << 20  # characters of lines parsed together
BATCH = 5_000  # rows of Parquet or Arrow
TABLES = (".parquet", ".arrow", ".feather", ".ipc")
DAY = r"\d{1,2} [A-Z][a-z]{2} \d{4}|\d{4}-\d{2}-\d{2}"  # in Mon, 2 Apr 2007 19:18:42 GMT, or in ISO 8601
MONTH = r"^(?:[a-z-]+(?:\.[A-Z]{2})?/)?(\d{4})"  # in which an identifier was given, such as 0704
UNCHANGED = ("id", "title", "abstract", "doi", "comments", "submitter", "license")
OTHERS = ("authors", "categories", "versions", "update_date", "journal-ref", "report-no")
SCHEMA = dict.fromkeys(UNCHANGED + OTHERS, pl.String)  # a list or an object becomes text in JSON
SCHEMA["authors_parsed"] = pl.List(pl.List(pl.String))  # last name, first names, suffix


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``: JSON lines, Parquet or Arrow, as data sets on the hub have them; a file or a folder.

    Papers are dated by their first version. Data sets that have only the names of versions, or none, have the first day
    of the month in the identifier. Rows that are not papers, lack an id or have no date are counted in ``faults``.
    """
    tables = [path for path in inputs.find(settings) if path.suffix in TABLES]
    for path in tables:
        with inputs.naming(path):
            yield from _read_table(faults, path)
    if not tables:
        yield from inputs.read_files(settings, partial(_read_lines, faults))


def _read_table(faults: Faults, path: Path) -> Iterator[pl.DataFrame]:
    """Reads Parquet or Arrow in slices, each as JSON lines: data sets have columns of several types."""
    if path.suffix == ".parquet":
        table = pl.scan_parquet(path)
    else:
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        # The datasets library writes streams, in files of at most 500 MB
        table = pl.scan_ipc(path) if is_file else pl.read_ipc_stream(path).lazy()
    table = table.select(name for name in table.collect_schema() if name in SCHEMA)
    # Slices need a tenth of the memory of the streaming engine's batches, which reads ahead
    for first in range(0, table.select(pl.len()).collect().item(), BATCH):
        lines = table.slice(first, BATCH).collect(engine="streaming").write_ndjson()
        yield _converted(_parsed(lines, first + 1, path.name, faults), path.name, faults)


def _read_lines(faults: Faults, name: str, text: TextIO) -> Iterator[pl.DataFrame]:
    first = 1
    while block := text.read(BLOCK):
        block += text.readline()
        yield _converted(_parsed(block, first, name, faults), name, faults)
        first += block.count("\n")


def _parsed(block: str, first: int, name: str, faults: Faults) -> pl.DataFrame:
    """The records with their line numbers. If the block fails, each line is parsed, so that only bad ones are lost."""
    lines = block.removesuffix("\n").split("\n")
    try:
        table = pl.read_ndjson(block.encode(), schema=SCHEMA)
        if table.height == len(lines):
            return table.with_row_index(LINE, first)
    except pl.exceptions.PolarsError:
        pass
    tables = [pl.DataFrame(schema={LINE: pl.UInt32} | SCHEMA)]
    for number, line in enumerate(lines, first):
        try:
            tables.append(pl.read_ndjson(f"{line}\n".encode(), schema=SCHEMA).with_row_index(LINE, number))
        except pl.exceptions.PolarsError:
            faults.add("no JSON object of a paper", f"{name}, line {number:,}: {shorten(line)}")
    return pl.concat(tables)


def _converted(table: pl.DataFrame, name: str, faults: Faults) -> pl.DataFrame:
    # Days of the versions, and of publication
    text = pl.element()
    days = [text.str.to_date(form, strict=False) for form in ("%d %b %Y", "%Y-%m-%d")]
    versions = pl.col("versions").str.extract_all(DAY).list.eval(pl.coalesce(days))
    named = (pl.col("id").str.extract(MONTH) + "01").str.to_date("%y%m%d", strict=False)
    dated = pl.col("versions").list.len() > 0
    table = table.with_columns(versions=versions).with_columns(
        published=pl.when(dated).then(pl.col("versions").list.first()).otherwise(named),
        updated=pl.col("update_date").str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False),
    )
    valid = pl.col("published").is_not_null() & (pl.col("update_date").is_null() | pl.col("updated").is_not_null())
    table = faults.sift(table, name, "no id", "title", pl.col("id").str.len_bytes() > 0)
    table = faults.sift(table, name, "invalid date", "id", valid)
    # Authors are lists of names, or a text of names; categories are a list or a text
    names = pl.element().list.slice(0, 2).list.reverse().list.join(" ").str.strip_chars()
    text = pl.col("authors").str.strip_prefix('["').str.strip_suffix('"]').str.replace_all('", "', ", ", literal=True)
    categories = pl.col("categories").str.extract_all(r'[^\s\[\]",]+')
    return table.select(
        *UNCHANGED,
        "published",
        "updated",
        "versions",
        journal_ref="journal-ref",
        report_no="report-no",
        authors=pl.coalesce(pl.col("authors_parsed").list.eval(names), text.str.split(", ")),
        categories=categories,
        primary_category=categories.list.first(),
    )
