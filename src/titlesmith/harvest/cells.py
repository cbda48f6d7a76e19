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

TIME = r"(?:[T\s]+\d{1,2}:\d{2}.*|T\d{4,6}.*|Z|[+-]\d{2}:\d{2})$"
WEEKDAY = r"^(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*[.,]?\s+"
FORMATS = ("%Y-%m-%d", "%d %B %Y", "%B %d %Y", "%Y %B %d")
NUMERIC = r"^(\d{1,2})([-/])(\d{1,2})[-/](\d{4})$"  # 3/8/2019: the day or the month first
REWRITES = (  # each pattern as year-month-day, or as words that FORMATS cover
    (r"^(\d{4}|\d{8})\.0*$", "$1"),  # pandas writes whole numbers as 2010.0 in a column that lacks some
    (r"^(\d{4})(\d{2})(\d{2})$", "$1-$2-$3"),
    (r"^(\d{4})[-/.]\s?(\d{1,2})[-/.]\s?(\d{1,2})\.?$", "$1-$2-$3"),
    (r"^(\d{4})[-/](\d{1,2})$", "$1-$2-1"),
    (r"^(\d{1,2})[-/](\d{4})$", "$2-$1-1"),
    (r"^(\d{4})$", "$1-1-1"),
    (r"^(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})$", "$3-$2-$1"),  # with dots, the day comes first everywhere
    (r"(\d)(?:st|nd|rd|th)\b", "$1"),
    (r"(?i)\bsept\b", "Sep"),
    (r"^([A-Za-z]{3,}) (\d{4})$", "1 $1 $2"),
    (r"^(\d{4}) ([A-Za-z]{3,})$", "1 $2 $1"),
)


def dates(cells: pl.Series, day_first: bool) -> pl.Series:
    """Cells as dates, null if invalid. A year or a month becomes its first day.

    Two-digit years, numbers of days and other ambiguous formats are invalid, except 3/8/2019 and 3-8-2019, for which
    ``day_first`` decides.
    """
    text = _without_time(cells).str.replace(WEEKDAY, "")
    words = text.str.replace_all(r"[-/.,\s]+", " ").str.strip_chars()
    text = words.zip_with(text.str.contains(r"\p{L}"), text)
    for pattern, written in ((NUMERIC, "$4-$3-$1" if day_first else "$4-$1-$3"), *REWRITES):
        text = text.str.replace(pattern, written)
    days = pl.select(pl.coalesce(pl.lit(text).str.to_date(form, strict=False) for form in FORMATS)).to_series()
    return days.set(days.dt.year() < 1000, None)  # 19 is not a year


def day_orders(cells: pl.Series) -> pl.Series:
    """What comes first in dates such as 3/8/2019: ``day``, ``month`` or ``unknown``; null for other cells."""
    numbers = _without_time(cells).str.extract_groups(NUMERIC)
    first, second = (pl.lit(numbers.struct.field(group).cast(pl.Int64)) for group in ("1", "3"))
    day = pl.when(first > 12, second <= 12).then(pl.lit("day"))
    month = day.when(first <= 12, second > 12).then(pl.lit("month"))
    return pl.select(month.when(first != second, first <= 12).then(pl.lit("unknown"))).to_series()


def _without_time(cells: pl.Series) -> pl.Series:
    return cells.str.strip_chars().str.replace(TIME, "")


def lists(cells: pl.Series, by_space: bool = False) -> pl.Series:
    """Cells as lists of text, null if empty.

    Cells are lists in the syntax of Python, numpy or JSON, or items separated by one of `SEPARATORS`. ``by_space``: a
    space separates words in lower case; it always separates arXiv's categories.
    """
    return pl.Series(cells.name, [cell and _items(cell.strip(), by_space) for cell in cells], pl.List(pl.String))


def _items(text: str, by_space: bool) -> list[str] | None:
    if re.fullmatch(r"\[.*\]|\(.*\)|\{.*\}", text, re.DOTALL):
        items = _literal(text)
    else:
        separator = next((s for s in SEPARATORS if s in text), None)
        names = any(word[0].isupper() for word in text.split())  # Machine Learning is one item
        items = text.split(separator) if separator or (by_space and not names) else [text]
    parts = []
    for item in items:
        words = item.split()
        parts += words if all(map(CODE.fullmatch, words)) else [item.strip()]
    return parts or None


def _literal(text: str) -> list[str]:
    """The items of a list in brackets; if it cannot be parsed, the texts between separators."""
    inner = re.sub(r"(?<=['\"])\s+(?=['\"])", ", ", text[1:-1])  # numpy writes no commas
    written = text if ":" in text and text[0] == "{" else f"[{inner}]"
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # LaTeX in the items looks like wrong escapes
            value = parse(written)
            return [_name(item) for item in (value if isinstance(value, list) else [value])]
    return [item.strip(" \"'") for item in re.split(r"[;,\n]", inner)]


def _name(item: object) -> str:
    """One item as text; a person can be an object with a name or its parts, or ``[last, first, suffix]``."""
    if isinstance(item, dict):
        parts = [item.get("name") or item.get("full_name") or item.get("given"), item.get("family")]
    elif isinstance(item, list | tuple):
        parts = [*item[1:2], *item[:1], *item[2:]]
    else:
        parts = [item]
    return " ".join(str(part).strip() for part in parts if part not in (None, ""))
