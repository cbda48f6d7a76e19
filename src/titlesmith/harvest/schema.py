"""Columns of the table of papers, and the filters that all sources share."""

import polars as pl
import polars.selectors as cs

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


def conform(batch: pl.DataFrame) -> pl.DataFrame:
    """The batch with all columns of `SCHEMA` in their types, followed by those that only its source has."""
    absent = {name: pl.lit(None, dtype) for name, dtype in SCHEMA.items() if name not in batch.columns}
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


def row_ids(before: int) -> pl.Expr:
    """Ids of rows that have none: their numbers, after ``before`` earlier rows."""
    return "row." + (pl.int_range(pl.len()) + before + 1).cast(pl.String).str.zfill(7)
