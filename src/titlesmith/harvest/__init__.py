"""Papers from anywhere, as one table.

A source is a module of this package with a function
``read(settings: dict, folder: Path, faults: Faults) -> Iterator[polars.DataFrame]``. It yields papers batch by batch
and fills what it knows of the columns in `SCHEMA`; what it must remember to go on after an interruption it keeps in
``folder``, and rows that are no papers it counts in ``faults``. `harvest` adds the missing columns, applies the filters
common to all sources, and sorts. Where a source has a function ``check(settings)``, that refuses wrong settings before
anything runs (RequestError).
"""

import random
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import polars as pl
import polars.selectors as cs

from titlesmith.errors import RequestError
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.store import Spool
from titlesmith.runs import Run, files

# name of a source: its module
SOURCES = {
    "sample": "sample",
    "arxiv": "arxiv",
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
KEPT = "state.json"  # what a source still needs in its folder when the harvest is over


@dataclass(frozen=True)
class Papers:
    """Harvested papers. They stay on disk: all of arXiv would not fit into a notebook's memory.

    Attributes
    ----------
    path
        ``papers.parquet``: the columns of `SCHEMA` and those that a source brings beside them, oldest paper first.
    counts
        Rows ``read``, ``outside`` the filters, ``repeated`` (of an id that another row has), ``beyond``
        ``max_results``, papers ``kept``.
    faults
        Rows that are no papers, as `Faults.found` has them.
    """

    path: Path
    counts: dict[str, int]
    faults: dict[str, dict]

    def scan(self) -> pl.LazyFrame:
        """The table, to be read as far as it is needed."""
        return pl.scan_parquet(self.path)

    def sample(self, count: int, seed: int) -> pl.DataFrame:
        """At most ``count`` papers drawn at random, oldest first."""
        drawn = random.Random(seed).sample(range(self.counts["kept"]), min(count, self.counts["kept"]))
        return pl.concat(self.scan().slice(place, 1).collect() for place in sorted(drawn))


def harvest(run: Run, settings: dict) -> Papers:
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
    Papers
        Each id once: of two rows with one id the later ``updated`` stays, else the one read last.

    Raises
    ------
    RequestError
        The settings are wrong, or no paper is left.
    RunError
        The disk is full; the ``papers.parquet`` that was there before still is.
    """
    check(settings)
    read, faults = 0, Faults()
    with Spool(run / ".spool") as spool:
        for batch in _reading(run, settings).read(settings, run / "harvest", faults):
            read += batch.height
            fitting = matching(_conform(batch), settings)
            if fitting.height:
                spool.add(fitting)
        if not spool.rows:
            filters = ", ".join(f"{k}={settings[k]!r}" for k in ("categories", "since", "until") if settings[k])
            if not read and not faults.found:
                raise RequestError(f"source {settings['source']} has no papers: {settings['path'] or 'it is empty'}")
            remedy = f"what could not be read: {faults}" if faults.found else "widen the filters"
            raise RequestError(f"none of {read:,} papers is left by {filters or 'the source'}; {remedy}")
        different = spool.write(run / "papers.parquet", settings["max_results"])
    kept = min(different, settings["max_results"] or different)
    counts = {"read": read, "outside": read - spool.rows, "repeated": spool.rows - different}
    counts |= {"beyond": different - kept, "kept": kept}
    # Papers that were read anew are as old as their source: what an earlier update asked for is no longer in them
    run.finish("harvest", counts=counts, faults=faults.found, asked=None, update=None)
    for path in files(run / "harvest"):
        if path.name != KEPT:
            path.unlink()
    return Papers(run / "papers.parquet", counts, faults.found)


def check(settings: dict) -> None:
    """Checks, before anything runs, that the settings fit together and that what a source reads is there.

    Raises
    ------
    RequestError
        They do not, or it is not.
    """
    if "" < settings["until"] < settings["since"]:
        raise RequestError(f"harvest.since: {settings['since']} is after harvest.until, {settings['until']}")
    if settings.get("query") and settings["source"] not in ("arxiv", "oai", "rss"):  # the last two say more themselves
        raise RequestError(f"harvest.query: source {settings['source']} searches nothing; take source arxiv")
    source = _source(settings)
    if hasattr(source, "check"):
        source.check(settings)


def _reading(run: Run, settings: dict) -> ModuleType:
    """The source, or the changes that wait to be merged into what was harvested from it."""
    if (run / "update").exists():
        changes = import_module("titlesmith.harvest.changes")
        if changes.waiting(run):
            return changes
    return _source(settings)


def _source(settings: dict) -> ModuleType:
    return import_module(f"titlesmith.harvest.{SOURCES[settings['source']]}")


def _conform(batch: pl.DataFrame) -> pl.DataFrame:
    """The batch with all columns of `SCHEMA` in their types, in front of those that only this source has."""
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name not in batch.columns]
    batch = batch.with_columns(absent).cast(SCHEMA).select(*SCHEMA, pl.exclude(*SCHEMA))
    return batch.with_columns(cs.by_dtype(pl.Null).cast(pl.String))  # a column that is empty so far


def matching(batch: pl.DataFrame, settings: dict) -> pl.DataFrame:
    """The papers of a batch that the settings' ``categories``, ``since`` and ``until`` let through."""
    if settings["categories"]:
        batch = batch.filter(pl.col("categories").list.set_intersection(settings["categories"]).list.len() > 0)
    if settings["since"]:
        batch = batch.filter(pl.col("published") >= pl.lit(settings["since"]).str.to_date())
    if settings["until"]:
        batch = batch.filter(pl.col("published") <= pl.lit(settings["until"]).str.to_date())
    return batch
