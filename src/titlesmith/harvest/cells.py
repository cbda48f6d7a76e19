"""Cells of tables: lists and dates in the formats that people and programs write."""

import ast
import json
import re
import warnings
from contextlib import suppress

import polars as pl

MISSING = r"^(?i:nat|nan|none|null|n/a|<na>|-)?$"  # pandas and databases write these for "no value"
SEPARATORS = ";|\n,"  # of a list, strongest first: with semicolons, a name may contain a comma
CODE = re.compile(r"[a-z-]+\.[A-Za-z-]+|[a-z]+-[a-z]+|cs|math|physics|stat|nlin|econ|eess")  # an arXiv category

TIME = r"(?:[T\s]+\d{1,2}:\d{2}.*|Z)$"
WEEKDAY = r"^(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*[.,]?\s+"
FORMATS = ("%Y-%m-%d", "%d %B %Y", "%B %d %Y")
NUMERIC = r"^(\d{1,2})[-/](\d{1,2})[-/](\d{4})$"  # 3/8/2019: the day or the month first
REWRITES = (  # each pattern as year-month-day
    (r"^(\d{4})(?:\.0)?$", "$1-1-1"),  # pandas writes whole numbers as 2010.0 in a column that lacks some
    (r"^(\d{4})(\d{2})(\d{2})(?:\.0)?$", "$1-$2-$3"),
    (r"^(\d{4})[-/](\d{1,2})$", "$1-$2-1"),
    (r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})$", "$1-$2-$3"),
    (r"^(\d{1,2})\.(\d{1,2})\.(\d{4})$", "$3-$2-$1"),  # with dots, the day comes first everywhere
    (r"^([A-Za-z]{3,}) (\d{4})$", "1 $1 $2"),
)


def dates(cells: pl.Series, day_first: bool) -> pl.Series:
    """Cells as dates, null if invalid. A year or a month becomes its first day.

    Two-digit years and numbers of days are invalid; ``day_first`` decides 3/8/2019.
    """
    text = _without_time(cells).str.replace(WEEKDAY, "")
    words = text.str.replace_all(r"[-/.,\s]+", " ").str.strip_chars()
    text = words.zip_with(text.str.contains(r"\p{L}"), text)
    for pattern, written in ((NUMERIC, "$3-$2-$1" if day_first else "$3-$1-$2"), *REWRITES):
        text = text.str.replace(pattern, written)
    days = pl.select(pl.coalesce(pl.lit(text).str.to_date(form, strict=False) for form in FORMATS)).to_series()
    return days.set(days.dt.year() < 1000, None)  # 19 is not a year


def is_day_first(cells: pl.Series) -> bool:
    """Whether some cell, such as 13/8/2019, can only be read with the day first."""
    return bool((_without_time(cells).str.extract(NUMERIC, 1).cast(pl.Int64) > 12).any())


def _without_time(cells: pl.Series) -> pl.Series:
    return cells.str.strip_chars().str.replace(TIME, "")


def lists(cells: pl.Series) -> pl.Series:
    """Cells as lists of text, null if empty.

    Cells are lists in the syntax of JSON or Python, or items separated by one of `SEPARATORS`. Spaces separate only
    arXiv's categories.
    """
    return pl.Series(cells.name, [cell and _items(cell.strip()) for cell in cells], pl.List(pl.String))


def _items(text: str) -> list[str] | None:
    items = _literal(text) if text.startswith("[") else None
    if items is None:
        separator = next((s for s in SEPARATORS if s in text), "\n")
        items = [item.strip(" []{}()'\"") for item in text.split(separator)]
    parts = [word for item in items for word in (item.split() if all(map(CODE.fullmatch, item.split())) else [item])]
    return list(filter(None, parts)) or None


def _literal(text: str) -> list[str] | None:
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # LaTeX in the items looks like wrong escapes
            return [str(item).strip() for item in parse(text) if item is not None]
    return None
