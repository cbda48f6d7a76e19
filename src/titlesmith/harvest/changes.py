"""Changes to papers that a run has: listed by OAI-PMH, compared with the papers, and merged by the next harvest.

All lies in ``update/`` of the run directory until it is merged: the pages of the lists, the rows that are new or
changed, the ids of rows to take out, and what is known so far in ``state.json``.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import oai
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import SCHEMA, matching
from titlesmith.runs import Run, replacing, write_json

# what a source writes in its own way, so that a difference from OAI-PMH is no change
OWN = {"oai": [], "arxiv": ["authors"], "snapshot": ["authors", "updated"]}
OWN["archive"] = [*OWN["snapshot"], "journal_ref"]
ROWS = 50_000  # papers held in memory at once


def check(run: Run) -> dict:
    """The settings of a run's harvest, checked to be of papers that OAI-PMH lists (RequestError)."""
    settings = run.record("harvest").get("settings", {})
    source = settings.get("source")
    if source == "rss":
        raise RequestError(
            f"run {run.name} cannot be updated: its papers are one day's announcements; harvest with source oai, whose "
            "runs go on from day to day"
        )
    if source not in OWN:
        raise RequestError(f"run {run.name} cannot be updated: its papers ({source}) are none of arXiv's services")
    if settings["query"]:
        raise RequestError(
            f"run {run.name} cannot be updated: OAI-PMH lists categories and searches nothing; harvest the query "
            f"{settings['query']!r} again with titlesmith run ... --from harvest"
        )
    check_categories(settings["categories"])
    return settings


def state(run: Run) -> dict:
    """What is known of changes to the papers that the run has now; empty where there is nothing of the kind.

    Returns
    -------
    dict
        ``of``, the digest of those papers; ``since`` and ``day``, the first day asked for and the day of asking; and,
        once all are there and compared, ``counts`` (``new changed deleted unchanged``) and ``faults``.
    """
    path = run / "update" / "state.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return known if (run / "papers.parquet").exists() and known.get("of") == _digest(run) else {}


def waiting(run: Run) -> bool:
    """Whether there are changes that the next harvest is to merge, instead of harvesting anew."""
    return "counts" in state(run)


def fetch(run: Run, settings: dict) -> dict:
    """Lists what changed since the run's papers were harvested or updated, and compares it with them.

    An interrupted call goes on where it was, for as long as the run has the same papers.

    Returns
    -------
    dict
        As `state` gives it, with the counts.
    """
    folder = run / "update"
    lists = oai.Lists(settings["service"] if settings["source"] == "oai" else "", folder / "pages")
    known = state(run)
    if not known:
        shutil.rmtree(folder, ignore_errors=True)
        today = lists.today()
        known = {"of": _digest(run), "since": _since(run, today), "day": today.isoformat()}
        write_json(folder / "state.json", known)
    for _ in lists.pages(settings["categories"], known["since"]):
        pass
    write_json(folder / "state.json", known | _compare(run, settings))
    return state(run)


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """The run's papers with the changes: a source like the others, but for its folder (any of the run's)."""
    run, changes = folder.parent, folder.parent / "update"
    faults.reasons |= json.loads((changes / "state.json").read_text("utf-8"))["faults"]
    gone = pl.read_parquet(changes / "gone.parquet")["id"].implode()
    old = pl.scan_parquet(run / "papers.parquet")
    for start in range(0, old.select(pl.len()).collect().item(), ROWS):
        yield old.slice(start, ROWS).filter(~pl.col("id").is_in(gone)).collect()
    for path in sorted(changes.glob("rows.*.parquet")):
        yield pl.read_parquet(path)


def _compare(run: Run, settings: dict) -> dict[str, dict]:
    """Writes the rows that are new or changed and the ids that go, page by page; the counts and faults of `state`."""
    faults = Faults()
    pages = sorted((run / "update" / "pages").glob("*.parquet"))
    old = pl.scan_parquet(run / "papers.parquet")
    fields = [name for name in SCHEMA if name not in OWN[settings["source"]]]
    oldest, papers = old.select(pl.min("published"), pl.len()).collect().row(0)
    if 0 < settings["max_results"] <= papers:  # older papers were left out and stay out
        settings = settings | {"since": max(settings["since"], f"{oldest}")}
    counts, gone, first = dict.fromkeys(("new", "changed", "deleted", "unchanged"), 0), [], 0
    empty = pl.DataFrame(schema={"id": pl.String, "changed": pl.String})
    heads = pl.concat([empty, *(pl.read_parquet(path, columns=empty.columns) for path in pages)])
    # a paper that is listed twice counts as it was listed last
    latest = heads.with_row_index("row").sort("changed", "row").unique("id", keep="last").select("row")
    for number, path in enumerate(pages):
        page = pl.read_parquet(path).with_row_index("row", first)
        first += page.height
        page = faults.sift_records(page).join(latest, on="row", how="semi")
        before = old.filter(pl.col("id").is_in(page["id"].implode())).collect()
        now = matching(page.filter(~pl.col("deleted")), settings).select(*SCHEMA)
        same = _folded(now, fields).join(_folded(before, fields), on=fields, how="semi", nulls_equal=True)
        new = now.join(before, on="id", how="anti")
        changed = now.join(new, on="id", how="anti").join(same, on="id", how="anti")
        lost = before.join(now, on="id", how="anti")
        for name, rows in zip(counts, (new, changed, lost, now), strict=True):
            counts[name] += rows.height
        gone += [lost["id"], changed["id"]]
        with replacing(run / "update" / f"rows.{number:06d}.parquet") as temporary:
            pl.concat([before.clear(), new, changed], how="diagonal").write_parquet(temporary)
    counts["unchanged"] -= counts["new"] + counts["changed"]
    with replacing(run / "update" / "gone.parquet") as temporary:
        pl.DataFrame({"id": pl.concat([pl.Series(dtype=pl.String), *gone])}).write_parquet(temporary)
    return {"counts": counts, "faults": faults.reasons}


def _folded(rows: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """Fields as they are compared: space is one space, and no text is like an empty one."""
    texts = pl.col(name for name in fields if SCHEMA[name] == pl.String)
    return rows.select(fields).with_columns(texts.fill_null("").str.replace_all(r"\s+", " ").str.strip_chars())


def _since(run: Run, today: date) -> str:
    """The first day whose changes the run's papers may lack: a day before it was harvested or updated last.

    A day after ``today`` comes from a wrong clock or a wrong date: the next best one counts, none in the end.
    """
    path = run / "harvest" / "state.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for asked in (run.record("harvest").get("asked"), kept.get("asked")):
        with suppress(TypeError, ValueError):
            if (day := date.fromisoformat(asked)) <= today:
                return (day - timedelta(days=1)).isoformat()
    # all papers of a file were up to date on the last day on which any of them changed
    days = [pl.col(name).filter(pl.col(name) <= today).max() for name in ("published", "updated")]
    newest = pl.scan_parquet(run / "papers.parquet").select(pl.max_horizontal(days)).collect().item()
    return (newest - timedelta(days=1)).isoformat() if newest else ""


def _digest(run: Run) -> str:
    return run.record("harvest").get("outputs", {}).get("papers.parquet", "")
