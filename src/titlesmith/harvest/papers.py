"""The table of papers that a harvest writes, from any source.

A source is a module of this package with a function
``read(settings: dict, folder: Path, faults: Faults) -> Iterator[polars.DataFrame]``. It yields batches with the columns
of `SCHEMA` that it knows, stores in ``folder`` what it needs to resume after an interruption, and counts rows that are
not papers in ``faults``.
"""

import random
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import conform, matching
from titlesmith.harvest.store import Spool
from titlesmith.runs import Run, list_files

SOURCES = ("sample", "arxiv", "oai", "rss", "snapshot", "archive", "csv", "alpaca")
STATE = "state.json"  # what an update needs of a source's folder after the harvest
SERVICES = ("arxiv", "oai", "rss")  # sources whose categories are arXiv's


@dataclass(frozen=True)
class Papers:
    """Harvested papers. They stay on disk: all of arXiv would not fit into a notebook's memory.

    ``path`` is the table: the columns of `SCHEMA`, then those that only the source has; oldest paper first. ``counts``
    has the rows ``read``, ``outside`` the filters, ``repeated`` (with the id of another row), ``beyond``
    ``max_results``, and the ``kept`` papers. ``faults`` are rows that are not papers, as in `Faults.reasons`.
    """

    path: Path
    counts: dict[str, int]
    faults: dict[str, dict]

    def scan(self) -> pl.LazyFrame:
        """The table, to be read as far as needed."""
        return pl.scan_parquet(self.path)

    def sample(self, count: int, seed: int) -> pl.DataFrame:
        """At most ``count`` random papers, oldest first."""
        rows = random.Random(seed).sample(range(self.counts["kept"]), min(count, self.counts["kept"]))
        return pl.concat(self.scan().slice(row, 1).collect() for row in sorted(rows))


def harvest(run: Run, settings: dict) -> Papers:
    """Harvests papers from ``settings["source"]``, and writes ``papers.parquet``.

    Filters of all sources: ``categories`` (any of them; empty for all), ``since`` and ``until`` (days of first
    publication, inclusive), ``max_results`` (the newest are kept; 0 for all). Of two rows with one id the later
    ``updated`` is kept, else the one read last. RequestError: the settings are wrong, or no paper is left. RunError:
    the disk is full; an earlier ``papers.parquet`` is unchanged.
    """
    check(settings)
    num_read, faults = 0, Faults()
    with Spool(run / ".spool") as spool:
        # Read all batches, keep what passes the filters
        for batch in _reader(run, settings).read(settings, run / "harvest", faults):
            num_read += batch.height
            passing = matching(conform(batch), settings)
            if passing.height:
                spool.add(passing)
        # Without any paper, name what to change
        if not spool.num_rows:
            filters = ", ".join(f"{k}={settings[k]!r}" for k in ("categories", "since", "until") if settings[k])
            if not num_read and not faults.reasons:
                raise RequestError(f"source {settings['source']} has no papers: {settings['path'] or 'it is empty'}")
            remedy = f"what could not be read: {faults}" if faults.reasons else "widen the filters"
            raise RequestError(f"none of {num_read:,} papers passes {filters or 'the source'}; {remedy}")
        num_different = spool.write(run / "papers.parquet", settings["max_results"])
    kept = min(num_different, settings["max_results"] or num_different)
    counts = {"read": num_read, "outside": num_read - spool.num_rows, "repeated": spool.num_rows - num_different}
    counts |= {"beyond": num_different - kept, "kept": kept}
    # The papers are as old as their source: earlier updates are not in them
    run.finish("harvest", counts=counts, faults=faults.reasons, asked=None, update=None)
    for path in list_files(run / "harvest"):
        if path.name != STATE:
            path.unlink()
    return Papers(run / "papers.parquet", counts, faults.reasons)


def check(settings: dict) -> None:
    """Checks, before anything runs, that settings are consistent and the source's input exists (RequestError)."""
    source = settings["source"]
    if "" < settings["until"] < settings["since"]:
        raise RequestError(f"harvest.since: {settings['since']} is after harvest.until, {settings['until']}")
    if settings.get("query") and source != "arxiv":
        raise RequestError(f"harvest.query: source {source} has no search; use source arxiv")
    if source in SERVICES:
        check_categories(settings["categories"])
        if source != "oai" and not settings["categories"] and not settings["query"]:
            raise RequestError(
                f"harvest.categories: source {source} needs categories{' or a query' if source == 'arxiv' else ''}; "
                "for all of arXiv use source snapshot"
            )
    # Read the headers of tables, or the first papers of other files
    module, faults = import_module(f"titlesmith.harvest.{source}"), Faults()
    if source in ("csv", "archive"):
        for _ in module.tables(settings, faults):
            pass
    if source in ("snapshot", "alpaca") and not any(map(len, islice(module.read(settings, Path(), faults), 1))):
        found = str(faults) or "it is empty"
        raise RequestError(f"harvest.path: {settings['path']} is not a file for source {source}: {found}")


def _reader(run: Run, settings: dict) -> ModuleType:
    """The source's module, or `changes` if some wait to be merged into the papers harvested from it."""
    changes = import_module("titlesmith.harvest.changes")
    return changes if changes.waiting(run) else import_module(f"titlesmith.harvest.{settings['source']}")
