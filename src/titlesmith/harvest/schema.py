"""Columns of the table of papers, the filters that all sources share, and faults of rows."""

import polars as pl
import polars.selectors as cs

from titlesmith.errors import shorten

EXAMPLES = 3  # of faults, per reason
LINE = "(line)"  # column of a file's table: the number of the row's line, counted from 1
SCHEMA = {
    "id": pl.String,
    "title": pl.String,
    "abstract": pl.String,
    "authors": pl.List(pl.String),
    "categories": pl.List(pl.String),
    "primary_category": pl.String,
    "published": pl.Date,
    "updated": pl.Date,
    "doi": pl.String,
    "journal_ref": pl.String,
    "comments": pl.String,
    "submitter": pl.String,
    "license": pl.String,
    "report_no": pl.String,
    "versions": pl.List(pl.Date),  # the day of each, oldest first
}


def conform(batch: pl.DataFrame, before: int = 0) -> pl.DataFrame:
    """The batch with all columns of `SCHEMA` in their types, followed by those that only its source has.

    Without a column ``id``, ids are the numbers of the rows after ``before`` earlier ones.
    """
    absent = {name: pl.lit(None, dtype) for name, dtype in SCHEMA.items() if name not in batch.columns}
    if "id" in absent:
        absent["id"] = "row." + (pl.int_range(pl.len()) + before + 1).cast(pl.String).str.zfill(7)
    batch = batch.with_columns(**absent).cast(SCHEMA).select(*SCHEMA, pl.exclude(*SCHEMA))
    return batch.with_columns(cs.by_dtype(pl.Null).cast(pl.String))  # a column that is empty so far


def matching(batch: pl.DataFrame, settings: dict) -> pl.DataFrame:
    """The papers of a batch that pass the filters ``categories`` (or archives, such as cs), ``since`` and ``until``."""
    if wanted := settings["categories"]:
        category, archive = pl.element(), pl.element().str.replace(r"\..*", "")
        passes = pl.col("categories").list.eval(category.is_in(wanted) | archive.is_in(wanted)).list.any()
        batch = batch.filter(passes)
    if settings["since"]:
        batch = batch.filter(pl.col("published") >= pl.lit(settings["since"]).str.to_date())
    if settings["until"]:
        batch = batch.filter(pl.col("published") <= pl.lit(settings["until"]).str.to_date())
    return batch


class Faults(dict[str, dict]):
    """Rows that are not papers, or whose reading is doubtful: ``{"rows": count, "examples": [...]}`` by reason."""

    def add(self, reason: str, example: str, rows: int = 1) -> None:
        """Counts ``rows`` rows; the example names the file and line, or the record, and the value."""
        entry = self.setdefault(reason, {"rows": 0, "examples": []})
        entry["rows"] += rows
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(example)

    def sift(self, table: pl.DataFrame, name: str, reason: str, shown: str, good: pl.Expr) -> pl.DataFrame:
        """Returns the good rows of the file ``name``; counts the others, with their column ``shown`` as examples."""
        is_good = table.select(good.fill_null(False)).to_series()
        for line, value in table.filter(~is_good).select(LINE, shown).iter_rows():
            self.add(reason, f"{name}, line {line:,}: {shorten(value)}")
        return table.filter(is_good)

    def sift_records(self, page: pl.DataFrame) -> pl.DataFrame:
        """Returns the records of a service that have no text in the column ``fault``, and counts the others."""
        good = pl.col("fault").is_null()
        for number, fault in page.filter(~good).select("id", "fault").iter_rows():
            self.add("records that lack a field or have a wrong date", f"{number}: {fault}")
        return page.filter(good)

    def __str__(self) -> str:
        reasons = (f"{reason}: {entry['rows']:,} ({entry['examples'][0]})" for reason, entry in self.items())
        return "; ".join(reasons)
