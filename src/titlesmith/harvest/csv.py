"""Source ``csv``: any table of comma-, semicolon- or tab-separated text with a header."""

import ast
import csv
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.harvest import inputs
from titlesmith.harvest.schema import LINE, SCHEMA, Faults
from titlesmith.hints import did_you_mean

BATCH = 10_000  # rows
EXCEL = re.compile(r'"?sep=."?\s*')
DELIMITERS = "\x1f,;\t|"  # the first one, which texts do not contain, is that of a single column
FIELDS = [name for name in SCHEMA if name != "versions"]  # those that a column can hold
MISSING = r"^\s*(?i:nat|nan|none|null|n/a|<na>|-)?\s*$"  # pandas and databases write these for "no value"
SEPARATORS = ";|\n,"  # of a list, strongest first: with semicolons, a name may contain a comma
CODE = re.compile(r"[a-z-]+\.[A-Za-z-]+|[a-z]+-[a-z]+|cs|math|physics|stat|nlin|econ|eess")  # an arXiv category
TIME = r"(?:[T\s]+\d{1,2}:\d{2}.*|Z|\.0)$"  # or .0, which pandas adds to years in a column that lacks some
WEEKDAY = r"^(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*[.,]?\s+"
# After spaces for hyphens, slashes and commas. With dots, the day comes first everywhere
FORMATS = ("%Y %m %d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d %B %Y", "%B %d %Y", "%Y %m", "%B %Y", "%b %Y", "%Y")
ONLY_DAY_FIRST = r"^\s*(?:1[3-9]|[23]\d)[-/]\d{1,2}[-/]\d{4}"

csv.field_size_limit(1 << 24)  # characters of a cell; an unmatched quote joins no more than this


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; ``settings["columns"]`` maps fields of `SCHEMA` to columns, others are kept.

    In a file with a date such as 13/8/2019 among its first rows, the day comes first. Rows with invalid dates, a wrong
    number of columns or no id are counted in ``faults``. RequestError: fields or columns do not exist.
    """
    yield from inputs.read_files(settings, partial(_read_table, settings, faults))


def _read_table(settings: dict, faults: Faults, name: str, text: TextIO) -> Iterator[pl.DataFrame]:
    rows = _rows(name, text, faults)
    header = next(rows)
    columns = _columns(settings, header, name)
    dated, day_first = [field for field in ("published", "updated") if field in columns], None
    while batch := list(islice(rows, BATCH)):
        table = pl.DataFrame(batch, {LINE: pl.Int64} | dict.fromkeys(header, pl.String), orient="row")
        table = table.with_columns(pl.col(pl.String).replace("", None))
        fields = {field: pl.col(column) for field, column in columns.items()}
        # Dates
        if day_first is None:
            day_first = any(table[columns[field]].str.contains(ONLY_DAY_FIRST).any() for field in dated)
        for field in dated:
            cell = fields[field]
            fields[field] = _dates(cell, day_first)
            valid = fields[field].is_not_null() | cell.is_null() | cell.str.contains(MISSING)
            table = faults.sift(table, name, "invalid date", columns[field], valid)
        if "id" in columns:
            shown = columns.get("title") or columns["abstract"]
            table = faults.sift(table, name, "no id", shown, pl.col(columns["id"]).is_not_null())
        # Lists, and the primary category from the categories or the other way round
        if "primary_category" in columns:
            fields.setdefault("categories", fields["primary_category"])
        for field in {"authors", "categories"} & fields.keys():
            fields[field] = fields[field].map_elements(_items, pl.List(pl.String))
        if "categories" in columns:
            fields.setdefault("primary_category", fields["categories"].list.first())
        # Other columns; one may have the name of a field for which another column was chosen
        for column in header:
            if column not in columns.values():
                fields[f"{column} (column)" if column in SCHEMA else column] = pl.col(column)
        yield table.select(**fields)


def _rows(name: str, text: TextIO, faults: Faults) -> Iterator[list]:
    """Yields the header, then the rows that have its width, each after the number of its line; counts others."""
    joined: list[str] = []  # the lines of the current row

    def lines() -> Iterator[str]:
        for line in text:
            joined.append(line)
            yield line

    # The first line with text is the header, unless Excel names the delimiter there (sep=;), and has the delimiter most
    # often; repeated or missing names get a number
    first = next((line for line in lines() if line.strip(DELIMITERS + " \r\n") and not EXCEL.fullmatch(line)), "")
    delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", first).count)
    dialect = {"delimiter": delimiter, "skipinitialspace": True}
    reader = csv.reader(chain([first], lines()), strict=True, **dialect)
    header: list[str] = []
    for column, title in enumerate(next(reader), 1):
        title = title.strip() or f"column {column}"
        header.append(title if title not in (LINE, *header) else f"{title} {column}")
    yield header
    # An unmatched quote joins lines, until an error or a row of another width: then each line is read separately
    number = 1
    while True:
        number += len(joined)
        joined.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = []
        rows = [row] if row and len(row) == len(header) else [next(csv.reader([line], **dialect)) for line in joined]
        for line, row in enumerate(rows, number):
            if any(row) and len(row) == len(header):
                yield [line, *row]
            elif any(row):
                shown = shorten(joined[line - number].rstrip())
                example = f"{name}, line {line:,}: {shown}: {len(row)} instead of {len(header)}"
                faults.add("wrong number of columns", example)


def _columns(settings: dict, header: list[str], name: str) -> dict[str, str]:
    """The column of each field (RequestError if a field or a column does not exist)."""
    there = f"{name} has: {', '.join(header)[:300]} (harvest.encoding: {settings['encoding']})"
    for field, column in settings["columns"].items():
        for word, known, what in ((field, FIELDS, "field"), (column, header, "column")):
            if word not in known:
                hint = did_you_mean(word, known)
                raise RequestError(f"harvest.columns: {shorten(word)} is not a {what}.{hint} {there}")
    columns = {field: field for field in FIELDS if field in header} | settings["columns"]
    if not columns.keys() & {"title", "abstract"}:
        raise RequestError(f'harvest.columns: add a title or an abstract: -p "harvest.columns=title: COLUMN". {there}')
    return columns


def _dates(text: pl.Expr, day_first: bool) -> pl.Expr:
    """Cells as dates, null if invalid: a year or a month becomes its first day; ``day_first`` decides 3/8/2019."""
    text = text.str.strip_chars().str.replace(TIME, "").str.replace(WEEKDAY, "")
    text = text.str.replace_all(r"[-/,\s]+", " ")
    days = [text.str.to_date(form, strict=False) for form in (*FORMATS, "%d %m %Y" if day_first else "%m %d %Y")]
    return pl.coalesce(pl.when(day.dt.year() >= 1000).then(day) for day in days)  # 19 is not a year


def _items(text: str) -> list[str] | None:
    """A cell as a list of texts, None if empty: a list in JSON or Python, or items separated by one of `SEPARATORS`."""
    text, items = text.strip(), None
    for parse in (ast.literal_eval, json.loads) if text.startswith("[") else ():
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # LaTeX in the items looks like wrong escapes
            items = [str(item).strip() for item in parse(text) if item is not None]
    if items is None:
        separator = next((s for s in SEPARATORS if s in text), "\n")
        items = [item.strip(" []{}()'\"") for item in text.split(separator)]
    # Spaces separate only arXiv's categories
    parts = [word for item in items for word in (item.split() if all(map(CODE.fullmatch, item.split())) else [item])]
    return list(filter(None, parts)) or None
