"""Source ``csv``: any table of comma-, semicolon- or tab-separated text with a header."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.harvest import SCHEMA, cells, inputs
from titlesmith.harvest.faults import LINE, Faults
from titlesmith.harvest.rows import Rows
from titlesmith.harvest.schema import row_ids
from titlesmith.hints import did_you_mean

DATED = ("published", "updated")


class Conventions(NamedTuple):
    """The reading of ambiguous cells, decided from all cells of a file."""

    day_first: bool  # 3/8/2019 is 3 August: more cells can only be read with the day first than with the month first
    doubtful: bool  # no cell decides this, or cells contradict each other: ambiguous dates are counted
    by_space: bool  # a space separates categories, because nothing else does


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; ``settings["columns"]`` maps fields of `SCHEMA` to columns.

    Default for a field: the column with the same name. Other columns are kept. Without a column for the id, the id is
    the number of the row. Invalid dates, and rows with a wrong number of columns or without an id, are counted in
    ``faults``; ambiguous dates and bytes that cannot be decoded too, but their rows stay.
    """
    number, conventions = 0, _conventions(settings)
    for name, rows, columns in tables(settings, faults):
        for table in rows.batches():
            yield _converted(table, columns, number, conventions, name, faults)
            number += table.height


def tables(settings: dict, faults: Faults) -> Iterator[tuple[str, Rows, dict[str, str]]]:
    """Yields name, rows and fields of each file (RequestError: wrong encoding, columns or fields)."""
    for name, text in inputs.opened(settings):
        rows = Rows(text, name, faults)
        yield name, rows, _columns(settings, rows.header, name)


def _columns(settings: dict, header: list[str], name: str) -> dict[str, str]:
    """The column of each field (RequestError if a field or a column does not exist)."""
    given, encoding = settings["columns"], settings["encoding"]
    doubt = "" if codecs.lookup(encoding).name == "utf-8" else f" Is harvest.encoding {encoding} right?"
    for field, column in given.items():
        for word, known, what in ((field, SCHEMA, "field"), (column, header, f"column of {name}")):
            if word not in known:
                hint = f"{did_you_mean(word, known)} There are: {', '.join(known)[:300]}{doubt}"
                raise RequestError(f"harvest.columns: {shorten(word)} is not a {what}.{hint}")
    columns = {field: field for field in SCHEMA if field in header} | given
    if not columns.keys() & {"title", "abstract"}:
        raise RequestError(
            f"harvest.columns: which column of {name} is the title or the abstract? Add -p "
            f'"harvest.columns=title: COLUMN"; there are: {", ".join(header)[:300]}{doubt}'
        )
    return columns


def _conventions(settings: dict) -> Conventions:
    day = month = 0  # cells that can only be read with the day, or the month, first
    by_space = True
    for _, rows, columns in tables(settings, Faults()):
        if not columns.keys() & {*DATED, "categories"}:
            continue
        for table in rows.batches():
            orders = [cells.day_orders(table[columns[field]]) for field in DATED if field in columns]
            day += sum((order == "day").sum() for order in orders)
            month += sum((order == "month").sum() for order in orders)
            if "categories" in columns:
                by_space &= not table[columns["categories"]].str.contains(f"[{cells.SEPARATORS}]").any()
    return Conventions(day > month, bool(day) == bool(month), by_space)


def _converted(
    table: pl.DataFrame, columns: dict[str, str], before: int, conventions: Conventions, name: str, faults: Faults
) -> pl.DataFrame:
    """The rows as papers; ``before`` is the number of rows read earlier."""
    fields = {"id": row_ids(before)} | {field: pl.col(column) for field, column in columns.items()}
    rules = []
    # Dates: invalid ones are faults; ambiguous ones are counted, and their papers stay
    for field in DATED:
        if field in columns:
            text = table[columns[field]]
            text = text.set(text.str.strip_chars().str.contains(cells.MISSING), None)
            fields |= {field: cells.dates(text, conventions.day_first), f"({field})": text}
            rules.append(("invalid date", f"({field})", pl.col(field).is_not_null() | pl.col(f"({field})").is_null()))
    # Lists, and the primary category from the categories or the other way round
    if "authors" in columns:
        fields["authors"] = cells.lists(table[columns["authors"]])
    if "categories" in columns:
        fields["categories"] = cells.lists(table[columns["categories"]], conventions.by_space)
        fields.setdefault("primary_category", fields["categories"].list.first())
    elif "primary_category" in columns:
        primary = fields["primary_category"].str.strip_chars()
        fields["categories"] = pl.when(primary != "").then(pl.concat_list(primary))
    # Other columns; one may have the name of a field for which another column was chosen
    for column in table.columns:
        if column not in (*columns.values(), LINE):
            fields[f"{column} (column)" if column in SCHEMA else column] = pl.col(column)
    papers = faults.sift(table.select(LINE, **fields), name, rules)
    if conventions.doubtful:
        reading = f"ambiguous date, read as {'day, month' if conventions.day_first else 'month, day'}, year"
        for _, text, _ in rules:
            faults.sift(papers, name, [(reading, text, cells.day_orders(papers[text]).ne_missing("unknown"))])
    shown = "title" if "title" in columns else "abstract"
    papers = faults.sift(papers, name, [("no id", shown, pl.col("id").is_not_null())])
    return papers.drop(LINE, *(text for _, text, _ in rules))
