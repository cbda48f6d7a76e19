"""Source ``csv``: any table of comma-, semicolon- or tab-separated text with a header."""

import io
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA, inputs
from titlesmith.harvest.faults import LINE, Faults
from titlesmith.harvest.rows import Rows

# Dates as people write them, without the time behind them
DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d %B %Y", "%B %d %Y", "%a %d %B %Y")
SLASHED = ("%m/%d/%Y", "%d/%m/%Y")  # the same file has only one of the two
TIME = r"[T ]\d{1,2}:\d{2}.*$"


def check(settings: dict) -> None:
    """Refuses an unknown encoding, and columns that the file or titlesmith does not have (RequestError)."""
    for _ in _tables(settings, Faults()):
        pass


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Reads ``settings["path"]``; ``settings["columns"]`` says which column is which field of `SCHEMA`.

    A field that it does not name is the column of the same name. Columns that are no field are kept. Where no column is
    the id, it is made of the number of the row. Cells that are no dates, and rows with another number of columns or
    without an id, are counted in ``faults``; what cannot be decoded too, but its row stays.
    """
    number, slashed = 0, _slashed(settings)
    for name, rows, columns in _tables(settings, faults):
        for table in rows.batches():
            yield _converted(table, columns, number, slashed, name, faults)
            number += table.height


def _tables(settings: dict, faults: Faults) -> Iterator[tuple[str, Rows, dict[str, str]]]:
    try:
        io.TextIOWrapper(io.BytesIO(), settings["encoding"])
    except LookupError:
        raise RequestError(
            f"harvest.encoding: {settings['encoding']!r} is unknown; common ones are utf-8, utf-16, latin-1, cp1252"
        ) from None
    for name, stream in inputs.opened(inputs.find(settings)):
        rows = Rows(stream, name, faults, settings["encoding"])
        yield name, rows, _columns(settings["columns"], rows.header, name)


def _columns(given: dict[str, str], header: list[str], name: str) -> dict[str, str]:
    """For each field the column that it is read from (RequestError: there is no such field or column)."""
    for field, column in given.items():
        for asked, known, what in ((field, SCHEMA, "field"), (column, header, f"column of {name}")):
            if asked not in known:
                near = get_close_matches(asked, known, 1, 0.4)
                hint = f"; did you mean {near[0]}?" if near else "."
                raise RequestError(f"harvest.columns: {asked!r} is no {what}{hint} There are: {', '.join(known)}")
    columns = {field: field for field in SCHEMA if field in header} | given
    if not columns.keys() & {"title", "abstract"}:
        raise RequestError(
            f"harvest.columns: which column of {name} is the title or the abstract? Add -p "
            f'"harvest.columns=title: COLUMN"; there are: {", ".join(header)[:300]}'
        )
    return columns


def _slashed(settings: dict) -> str:
    """How dates such as 3/8/2019 are meant: the month first, unless more of the file's cells are dates otherwise."""
    found = dict.fromkeys(SLASHED, 0)
    for _, rows, columns in _tables(settings, Faults()):
        dated = [columns[field] for field in ("published", "updated") if field in columns]
        for table in rows.batches() if dated else ():
            for form in SLASHED:
                found[form] += sum(_dates(table[column], (form,)).count() for column in dated)
    return max(SLASHED, key=found.get)


def _dates(cells: pl.Series, forms: tuple[str, ...]) -> pl.Series:
    """Cells as dates, null where none of the forms fits; a year or a month is its first day."""
    cells = cells.str.replace(TIME, "").str.replace_all(",", "").str.strip_chars()
    cells = cells.str.replace(r"^(\d{4})$", "$1-01").str.replace(r"^(\d{4}-\d{2})$", "$1-01")
    dates = pl.coalesce(pl.lit(cells).str.to_date(form, strict=False) for form in forms)
    return pl.select(pl.when(dates.dt.year() > 999).then(dates)).to_series()  # 19 is no year


def _converted(
    table: pl.DataFrame, columns: dict[str, str], before: int, slashed: str, name: str, faults: Faults
) -> pl.DataFrame:
    """The rows as papers; ``before`` them came so many others."""
    extra = [column for column in table.columns if column not in (*columns.values(), LINE)]
    dated = [field for field in ("published", "updated") if field in columns]
    fields = {field: pl.col(column) for field, column in columns.items()}
    if "id" not in columns:
        fields["id"] = "row." + (pl.int_range(pl.len()) + before + 1).cast(pl.String).str.zfill(7)
    for field in dated:
        fields |= {field: _dates(table[columns[field]], (*DATES, slashed)), f"({field})": pl.col(columns[field])}
    for field, between in (("authors", r"\s*[;,]\s*"), ("categories", r"[\s;,]+")):
        if field in columns:
            fields[field] = fields[field].str.replace_all(between, ";").str.strip_chars(";").str.split(";")
    if "categories" in columns and "primary_category" not in columns:
        fields["primary_category"] = fields["categories"].list.first()
    if "primary_category" in columns and "categories" not in columns:
        primary = fields["primary_category"].str.strip_chars()
        fields["categories"] = pl.when(primary != "").then(pl.concat_list(primary))
    # A column that is no field may have a field's name where another column was chosen for that field.
    fields |= {f"{column} (column)" if column in SCHEMA else column: pl.col(column) for column in extra}
    papers = table.select(LINE, **fields)
    for field in dated:
        good = pl.col(field).is_not_null() | pl.col(f"({field})").is_null()
        papers = faults.sift(papers, good, "invalid date", f"({field})", name)
    if "id" in columns:
        papers = faults.sift(
            papers, pl.col("id").is_not_null(), "no id", "title" if "title" in columns else "abstract", name
        )
    return papers.drop(LINE, *(f"({field})" for field in dated))
