"""Papers from anywhere, as one table.

A source is a module of this package with one function,
``papers(settings: dict, folder: Path, faults: Faults) -> Iterator[polars.DataFrame]``. It yields papers batch by batch
and fills what it knows of the columns in `SCHEMA`; what it must remember to go on after an interruption it keeps in
``folder``, and rows that are no papers it counts in ``faults``. `harvest` adds the missing columns, sorts, and applies
the filters common to all sources.
"""

from importlib import import_module

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import Faults
from titlesmith.run import Run, replacing, root

# name of a source: its module
SOURCES = {
    "sample": "sample",
    "arxiv": "arxiv_api",
    "oai": "oai",
    "rss": "rss",
    "snapshot": "snapshot",
    "archive": "archive",
    "csv": "csv",
    "alpaca": "alpaca",
}
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
}


def harvest(run: Run, settings: dict) -> pl.DataFrame:
    """Harvests papers from the source that the settings name, and writes ``papers.parquet``.

    Parameters
    ----------
    run
        Where to write.
    settings
        ``source`` and what that source reads; ``categories`` (any of them; empty for all), ``since`` and ``until``
        (dates of first publication, inclusive), ``max_results`` (the newest are kept; 0 for all).

    Returns
    -------
    polars.DataFrame
        One row a paper, oldest first, with the columns of `SCHEMA` and those that a source brings beside them.

    Raises
    ------
    RequestError
        No paper is left.
    """
    source = import_module(f"titlesmith.harvest.{SOURCES[settings['source']]}")
    papers = pl.concat(source.papers(settings, run / "harvest", Faults()), how="diagonal")
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name not in papers.columns]
    papers = papers.with_columns(absent).cast(SCHEMA).select(*SCHEMA, pl.exclude(*SCHEMA))
    kept = papers
    if settings["categories"]:
        kept = kept.filter(pl.col("categories").list.set_intersection(settings["categories"]).list.len() > 0)
    if settings["since"]:
        kept = kept.filter(pl.col("published") >= pl.lit(settings["since"]).str.to_date())
    if settings["until"]:
        kept = kept.filter(pl.col("published") <= pl.lit(settings["until"]).str.to_date())
    kept = kept.sort("published", "id")
    if settings["max_results"]:
        kept = kept.tail(settings["max_results"])
    if kept.is_empty():
        filters = ", ".join(f"{k}={settings[k]!r}" for k in ("categories", "since", "until") if settings[k])
        raise RequestError(f"none of {papers.height:,} papers is left by {filters or 'the source'}: widen the filters")
    with replacing(run / "papers.parquet") as temporary:
        kept.write_parquet(temporary)
    run.finish("harvest")
    return kept


def check(settings: dict) -> None:
    """Checks, before anything runs, that what a source reads is there (RequestError)."""
    path = settings["path"]
    if "" < settings["until"] < settings["since"]:
        raise RequestError(f"harvest.since: {settings['since']} is after harvest.until, {settings['until']}")
    if settings["source"] != "sample" and not (path and (root() / path).is_file()):
        raise RequestError(
            f"harvest.path: source {settings['source']} reads a file, and "
            + (f"{root() / path} is none" if path else "no path is given: add -p harvest.path=FILE")
        )
