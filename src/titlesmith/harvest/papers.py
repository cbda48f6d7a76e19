"""The table of papers that a harvest writes, from any source.

A source is a module of this package with ``read(settings: dict, folder: Path, faults: Faults) -> Iterator[DataFrame]``.
It yields batches with the columns of `SCHEMA` that it knows, stores in ``folder`` what it needs to resume after an
interruption, and counts rows that are not papers in ``faults``.
"""

import random
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.schema import Faults, conform, matching
from titlesmith.harvest.store import Spool, first_day
from titlesmith.runs import Run, remove


@dataclass(frozen=True)
class Papers:
    """Harvested papers. They stay on disk: all of arXiv would not fit into a notebook's memory.

    ``path`` is the table: the columns of `SCHEMA`, then those of the source; oldest paper first. ``counts`` has the
    rows ``read``, ``outside`` the filters, ``repeated`` (with another's id), ``beyond`` ``max_results``, and ``kept``.
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
    publication, inclusive), ``max_results`` (the newest are kept; 0 for all). RequestError: the settings are wrong, or
    no paper is left. RunError: the disk is full; an earlier ``papers.parquet`` is unchanged.
    """
    check(settings)
    # Changes that an update has listed are merged into the papers, without reading the source again
    changes = import_module("titlesmith.harvest.changes")
    source = changes if changes.waiting(run) else import_module(f"titlesmith.harvest.{settings['source']}")
    num_read, faults = 0, Faults()
    with Spool(run / ".spool") as spool:
        for batch in source.read(settings, run / "harvest", faults):
            papers = matching(conform(batch, num_read), settings)
            num_read += batch.height
            # Decoders put U+FFFD for what they cannot read
            undecoded = papers.filter(pl.concat_str("title", "abstract", ignore_nulls=True).str.contains("\ufffd"))
            if undecoded.height:
                example = f"{undecoded['id'][0]}: {shorten(undecoded['title'][0])}"
                faults.add("characters that cannot be decoded (see harvest.encoding)", example, undecoded.height)
            if papers.height:
                spool.add(papers)
        if not spool.num_rows:
            filters = ", ".join(f"{k}={settings[k]!r}" for k in ("categories", "since", "until") if settings[k])
            raise RequestError(f"none of {num_read:,} papers of the source passes the filters ({filters}). {faults}")
        num_different = spool.write(run / "papers.parquet", settings["max_results"])
    kept = min(num_different, settings["max_results"] or num_different)
    counts = {"read": num_read, "outside": num_read - spool.num_rows, "repeated": spool.num_rows - num_different}
    counts |= {"beyond": num_different - kept, "kept": kept}
    # The papers are as old as their source: earlier updates are not in them
    run.finish("harvest", counts=counts, faults=faults, requested=first_day(run / "harvest"), update=None)
    for name in ("harvest", "update"):
        remove(run / name)
    return Papers(run / "papers.parquet", counts, faults)


def check(settings: dict) -> None:
    """Checks, before anything runs, that settings are consistent and files hold papers (RequestError)."""
    source = settings["source"]
    if "" < settings["until"] < settings["since"]:
        raise RequestError(f"harvest.since: {settings['since']} is after harvest.until, {settings['until']}")
    if settings.get("query") and source != "arxiv":
        raise RequestError(f"harvest.query: source {source} has no search; use source arxiv")
    if source in ("arxiv", "oai", "rss"):
        check_categories(settings["categories"])
        if source != "oai" and not settings["categories"] and not settings["query"]:
            raise RequestError(f"harvest.categories: source {source} needs categories, or source arxiv a query")
    elif source != "sample":
        # Read the first papers
        faults = Faults()
        batches = import_module(f"titlesmith.harvest.{source}").read(settings, Path(), faults)
        if not any(map(len, islice(batches, 1))):
            what = f"{settings['path']} is not a file for source {source}"
            raise RequestError(f"harvest.path: {what}: {faults or 'it has no rows'}")
