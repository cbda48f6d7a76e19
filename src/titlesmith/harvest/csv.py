"""Source ``csv``: any table of comma-, semicolon- or tab-separated text with a header."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.harvest import SCHEMA, cells, inputs
from titlesmith.harvest.faults import LINE, Faults
from titlesmith.harvest.rows import Rows
from titlesmith.hints import did_you_mean

DATED = ("published", "updated")


@dataclass(frozen=True)
class Conventions:
    """The reading of ambiguous cells, decided from all cells of a file.

    Attributes
    ----------
    day_first
        Whether 3/8/2019 is 3 August: if more cells can only be read with the day first than with the month first.
    doubtful
        Whether no cell decides this, or cells contradict each other. Ambiguous dates are then counted.
    by_space
        Whether a space separates categories, because nothing else does.
    """

    day_first: bool
    doubtful: bool
    by_space: bool


def check(settings: dict) -> None:
    """Checks that the encoding, the columns and the fields exist (RequestError)."""
    for _ in _tables(settings, Faults()):
        pass


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; ``settings["columns"]`` maps fields of `SCHEMA` to columns.

    Default for a field: the column with the same name. Other columns are kept. Without a column for the id, the id is
    the number of the row. Invalid dates, and rows with a wrong number of columns or without an id, are counted in
    ``faults``; ambiguous dates and bytes that cannot be decoded too, but their rows stay.
    """
    number, conventions = 0, _conventions(settings)
    for name, rows, columns in _tables(settings, faults):
        for table in rows.batches():
            yield _converted(table, columns, number, conventions, name, faults)
            number += table.height


def _tables(settings: dict, faults: Faults) -> Iterator[tuple[str, Rows, dict[str, str]]]:
    try:
        if not codecs.lookup(settings["encoding"])._is_text_encoding:
            raise LookupError
    except LookupError:
        raise RequestError(
            f"harvest.encoding: {settings['encoding']!r} is unknown; common ones are utf-8, utf-16, latin-1, cp1252"
        ) from None
    for name, stream in inputs.opened(inputs.find(settings), settings["encoding"]):
        rows = Rows(stream, name, faults, settings["encoding"])
        yield name, rows, _columns(settings, rows.header, name)


def _columns(settings: dict, header: list[str], name: str) -> dict[str, str]:
    """The column of each field (RequestError if a field or a column does not exist)."""
    given, encoding = settings["columns"], settings["encoding"]
    doubt = "" if codecs.lookup(encoding).name == "utf-8" else f" Is harvest.encoding {encoding} right?"
    for field, column in given.items():
        for asked, known, what in ((field, SCHEMA, "field"), (column, header, f"column of {name}")):
            if asked not in known:
                listed = ", ".join(known)[:300]
                hint = did_you_mean(asked, known)
                message = f"{shorten(asked)} is not a {what}.{hint} There are: {listed}{doubt}"
                raise RequestError(f"harvest.columns: {message}")
    columns = {field: field for field in SCHEMA if field in header} | given
    if not columns.keys() & {"title", "abstract"}:
        raise RequestError(
            f"harvest.columns: which column of {name} is the title or the abstract? Add -p "
            f'"harvest.columns=title: COLUMN"; there are: {", ".join(header)[:300]}{doubt}'
        )
    return columns


def _conventions(settings: dict) -> Conventions:
    orders, by_space = {"day": 0, "month": 0}, True
    for _, rows, columns in _tables(settings, Faults()):
        dated = [columns[field] for field in DATED if field in columns]
        listed = [columns[field] for field in ("categories",) if field in columns]
        for table in rows.batches() if dated or listed else ():
            for column in dated:
                found = cells.day_orders(table[column])
                orders = {order: count + (found == order).sum() for order, count in orders.items()}
            by_space = by_space and not any(cells.has_separator(table[column]) for column in listed)
    day, month = orders.values()
    return Conventions(day > month, bool(day) == bool(month), by_space)


def _converted(
    table: pl.DataFrame, columns: dict[str, str], before: int, conventions: Conventions, name: str, faults: Faults
) -> pl.DataFrame:
    """The rows as papers; ``before`` is the number of rows read earlier."""
    day_first = conventions.day_first
    extra = [column for column in table.columns if column not in (*columns.values(), LINE)]
    dated = [field for field in DATED if field in columns]
    fields = {field: pl.col(column) for field, column in columns.items()}
    if "id" not in columns:
        fields["id"] = "row." + (pl.int_range(pl.len()) + before + 1).cast(pl.String).str.zfill(7)
    for field in dated:
        text = table[columns[field]]
        text = text.set(text.str.strip_chars().str.contains(cells.MISSING), None)
        fields |= {field: cells.dates(text, day_first), f"({field})": text}
    if "authors" in columns:
        fields["authors"] = cells.lists(table[columns["authors"]])
    if "categories" in columns:
        fields["categories"] = cells.lists(table[columns["categories"]], conventions.by_space)
        fields.setdefault("primary_category", fields["categories"].list.first())
    if "primary_category" in columns and "categories" not in columns:
        primary = fields["primary_category"].str.strip_chars()
        fields["categories"] = pl.when(primary != "").then(pl.concat_list(primary))
    # A column may have the name of a field for which another column was chosen
    fields |= {f"{column} (column)" if column in SCHEMA else column: pl.col(column) for column in extra}
    papers = table.select(LINE, **fields)
    for field in dated:
        good = pl.col(field).is_not_null() | pl.col(f"({field})").is_null()
        papers = faults.sift(papers, good, "invalid date", f"({field})", name)
        if conventions.doubtful:  # counted, and their papers stay
            clear = cells.day_orders(papers[f"({field})"]).ne_missing("unknown")
            reading = f"ambiguous date, read as {'day, month' if day_first else 'month, day'}, year"
            faults.sift(papers, pl.lit(clear), reading, f"({field})", name)
    if "id" in columns:
        papers = faults.sift(
            papers, pl.col("id").is_not_null(), "no id", "title" if "title" in columns else "abstract", name
        )
    return papers.drop(LINE, *(f"({field})" for field in dated))
