"""Source ``csv``: any table of comma-, semicolon- or tab-separated text with a header."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.harvest import SCHEMA, cells, inputs
from titlesmith.harvest.faults import LINE, Faults
from titlesmith.harvest.rows import Rows
from titlesmith.harvest.schema import row_ids
from titlesmith.hints import did_you_mean

DATED = ("published", "updated")
FIELDS = [name for name in SCHEMA if name != "versions"]  # those that a column can hold


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; ``settings["columns"]`` maps fields of `SCHEMA` to columns.

    Default for a field: the column with the same name. Other columns are kept. Without a column for the id, the id is
    the number of the row. In a file with a date such as 13/8/2019 among its first rows, the day comes first. Invalid
    dates, and rows with a wrong number of columns or without an id, are counted in ``faults``; bytes that cannot be
    decoded too, but their rows stay.
    """
    number = 0
    for name, rows, columns in tables(settings, faults):
        dated, day_first = [columns[field] for field in DATED if field in columns], None
        for table in rows.batches():
            if day_first is None:
                day_first = any(cells.is_day_first(table[column]) for column in dated)
            yield _converted(table, columns, number, day_first, name, faults)
            number += table.height


def tables(settings: dict, faults: Faults) -> Iterator[tuple[str, Rows, dict[str, str]]]:
    """Yields name, rows and fields of each file (RequestError: wrong encoding, columns or fields)."""
    for name, text in inputs.opened(inputs.find(settings), settings["encoding"]):
        rows = Rows(text, name, faults)
        yield name, rows, _columns(settings, rows.header, name)


def _columns(settings: dict, header: list[str], name: str) -> dict[str, str]:
    """The column of each field (RequestError if a field or a column does not exist)."""
    given, encoding = settings["columns"], settings["encoding"]
    doubt = "" if codecs.lookup(encoding).name == "utf-8" else f" Is harvest.encoding {encoding} right?"
    for field, column in given.items():
        for word, known, what in ((field, FIELDS, "field"), (column, header, f"column of {name}")):
            if word not in known:
                hint = f"{did_you_mean(word, known)} There are: {', '.join(known)[:300]}{doubt}"
                raise RequestError(f"harvest.columns: {shorten(word)} is not a {what}.{hint}")
    columns = {field: field for field in FIELDS if field in header} | given
    if not columns.keys() & {"title", "abstract"}:
        raise RequestError(
            f"harvest.columns: which column of {name} is the title or the abstract? Add -p "
            f'"harvest.columns=title: COLUMN"; there are: {", ".join(header)[:300]}{doubt}'
        )
    return columns


def _converted(
    table: pl.DataFrame, columns: dict[str, str], before: int, day_first: bool, name: str, faults: Faults
) -> pl.DataFrame:
    """The rows as papers; ``before`` is the number of rows read earlier."""
    fields = {"id": row_ids(before)} | {field: pl.col(column) for field, column in columns.items()}
    rules = []
    for field in DATED:
        if field in columns:
            text = table[columns[field]]
            text = text.set(text.str.strip_chars().str.contains(cells.MISSING), None)
            fields |= {field: cells.dates(text, day_first), f"({field})": text}
            rules.append(("invalid date", f"({field})", pl.col(field).is_not_null() | pl.col(f"({field})").is_null()))
    rules.append(("no id", "title" if "title" in columns else "abstract", pl.col("id").is_not_null()))
    # Lists, and the primary category from the categories or the other way round
    if "authors" in columns:
        fields["authors"] = cells.lists(table[columns["authors"]])
    if "categories" in columns:
        fields["categories"] = cells.lists(table[columns["categories"]])
        fields.setdefault("primary_category", fields["categories"].list.first())
    elif "primary_category" in columns:
        primary = fields["primary_category"].str.strip_chars()
        fields["categories"] = pl.when(primary != "").then(pl.concat_list(primary))
    # Other columns; one may have the name of a field for which another column was chosen
    for column in table.columns:
        if column not in (*columns.values(), LINE):
            fields[f"{column} (column)" if column in SCHEMA else column] = pl.col(column)
    papers = faults.sift(table.select(LINE, **fields), name, rules)
    return papers.drop(LINE, pl.selectors.matches(r"^\((published|updated)\)$"))
