"""Changes to papers that a run has: listed by OAI-PMH, compared with the papers, and merged by the next harvest.

Until then they are in ``update/`` of the run directory: the pages of the lists, the rows that are new or changed, the
ids of rows to remove, and ``state.json``.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import client, oai
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.faults import Faults
from titlesmith.harvest.schema import SCHEMA, matching
from titlesmith.harvest.store import write_parquet
from titlesmith.runs import Run, write_json

# Fields that a source lacks or writes in another form than OAI-PMH, so that a difference is not a change
OWN = {"oai": [], "arxiv": ["authors", "submitter", "license", "report_no", "versions"]}
OWN["snapshot"] = [*OWN["arxiv"], "updated"]
OWN["archive"] = [*OWN["snapshot"], "journal_ref"]
ROWS = 50_000  # papers held in memory at once


def check(settings: dict, name: str) -> None:
    """Checks that a harvest with these settings can be updated by OAI-PMH (else RequestError with ``name``)."""
    source, query = settings.get("source"), settings.get("query")
    problem = ""
    if source == "rss":
        problem = "its papers are one day's announcements; harvest with source oai, whose runs can be updated every day"
    elif source not in OWN:
        problem = f"its papers ({source}) are not from arXiv's services"
    elif query:
        problem = (
            f"OAI-PMH lists categories and has no search; harvest the query {query!r} again with titlesmith run ... "
            "--from harvest"
        )
    if problem:
        raise RequestError(f"{name} cannot be updated: {problem}")
    check_categories(settings["categories"])


def state(run: Run) -> dict:
    """The state of the changes to the run's present papers; empty if there is none.

    It has the digest of those papers (``of``), the first day of the changes (``since``) and the day of the request
    (``day``); once all are listed and compared, also ``counts`` (``new changed deleted unchanged``) and ``faults``.
    """
    known = _read_json(run / "update" / "state.json")
    return known if (run / "papers.parquet").exists() and known.get("of") == _digest(run) else {}


def waiting(run: Run) -> bool:
    """Whether there are changes that the next harvest is to merge, instead of reading the source."""
    return "counts" in state(run)


def fetch(run: Run, settings: dict) -> dict:
    """Lists what changed since the run's papers were harvested or updated, and compares it with them.

    Returns the `state`; it stays until the next day or until the changes are merged. An interrupted call resumes, as
    long as the run has the same papers.
    """
    folder = run / "update"
    lists = oai.Lists(settings["service"] if settings["source"] == "oai" else "", folder / "pages")
    known = state(run)
    if "counts" in known and known["day"] == client.today().isoformat():
        return known
    if not known or "counts" in known:
        shutil.rmtree(folder, ignore_errors=True)
        today = lists.today()
        known = {"of": _digest(run), "since": _since(run, today), "day": today.isoformat()}
        write_json(folder / "state.json", known)
    for _ in lists.pages(settings["categories"], known["since"]):
        pass
    known |= _compare(run, settings)
    write_json(folder / "state.json", known)
    return known


def added(run: Run) -> pl.DataFrame:
    """The listed papers that the run lacks, with the column ``announced``: the day on which arXiv changed them last."""
    folder, known = run / "update", state(run)
    if not known["counts"]["new"]:
        return pl.DataFrame(schema={**SCHEMA, "announced": pl.String})
    days = pl.scan_parquet(folder / "pages" / "*.parquet").group_by("id").agg(announced=pl.max("changed"))
    old = pl.scan_parquet(run / "papers.parquet").select("id")
    new = pl.scan_parquet(folder / "rows.*.parquet").join(old, on="id", how="anti").join(days, on="id")
    return new.with_columns(pl.col("announced").fill_null(known["day"])).sort("announced", "id").collect()


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields the run's papers with the changes, like a source; ``folder`` is any folder in the run's."""
    run, changes = folder.parent, folder.parent / "update"
    faults.reasons |= _read_json(changes / "state.json")["faults"]
    gone = pl.read_parquet(changes / "gone.parquet")["id"].implode()
    old = pl.scan_parquet(run / "papers.parquet")
    for start in range(0, old.select(pl.len()).collect().item(), ROWS):
        yield old.slice(start, ROWS).filter(~pl.col("id").is_in(gone)).collect()
    for path in sorted(changes.glob("rows.*.parquet")):
        yield pl.read_parquet(path)


def _compare(run: Run, settings: dict) -> dict[str, dict]:
    """Writes the new and changed rows and the ids to remove, page by page; returns `state`'s counts and faults."""
    faults = Faults()
    pages = sorted((run / "update" / "pages").glob("*.parquet"))
    old = pl.scan_parquet(run / "papers.parquet")
    fields = [name for name in SCHEMA if name not in OWN[settings["source"]]]
    # Papers that are older than the newest max_results stay out
    oldest, papers = old.select(pl.min("published"), pl.len()).collect().row(0)
    if 0 < settings["max_results"] <= papers:
        settings = settings | {"since": max(settings["since"], f"{oldest}")}
    # A paper that is listed twice counts as it was listed last
    empty = pl.DataFrame(schema={"id": pl.String, "changed": pl.String})
    heads = pl.concat([empty, *(pl.read_parquet(path, columns=empty.columns) for path in pages)])
    latest = heads.with_row_index("row").sort("changed", "row").unique("id", keep="last").select("row")
    counts, gone, first = dict.fromkeys(("new", "changed", "deleted", "unchanged"), 0), [empty["id"]], 0
    for number, path in enumerate(pages):
        page = pl.read_parquet(path).with_row_index("row", first)
        first += page.height
        page = faults.sift_records(page).join(latest, on="row", how="semi")
        # Compare the page with the papers of the same ids
        before = old.filter(pl.col("id").is_in(page["id"].implode())).collect()
        now = matching(page.filter(~pl.col("deleted")), settings).select(*SCHEMA)
        same = _folded(now, fields).join(_folded(before, fields), on=fields, how="semi", nulls_equal=True)
        new = now.join(before, on="id", how="anti")
        changed = now.join(new, on="id", how="anti").join(same, on="id", how="anti")
        lost = before.join(now, on="id", how="anti")
        for name, rows in zip(counts, (new, changed, lost, same), strict=True):
            counts[name] += rows.height
        gone += [lost["id"], changed["id"]]
        rows = pl.concat([before.clear(), new, changed], how="diagonal")
        write_parquet(run / "update" / f"rows.{number:06d}.parquet", rows)
    write_parquet(run / "update" / "gone.parquet", pl.DataFrame({"id": pl.concat(gone)}))
    return {"counts": counts, "faults": faults.reasons}


def _folded(rows: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """Fields normalized for comparison: single spaces, and empty texts for null."""
    texts = pl.col(name for name in fields if SCHEMA[name] == pl.String)
    return rows.select(fields).with_columns(texts.fill_null("").str.replace_all(r"\s+", " ").str.strip_chars())


def _since(run: Run, today: date) -> str:
    """The first day whose changes the run's papers may lack: a day before it was harvested or updated last.

    A day after ``today`` comes from a wrong clock or a wrong date, and is skipped; empty if no day is left.
    """
    for record in (run.record("harvest"), _read_json(run / "harvest" / "state.json")):
        with suppress(TypeError, ValueError):
            if (day := date.fromisoformat(record.get("asked"))) <= today:
                return (day - timedelta(days=1)).isoformat()
    # All papers of a file were up to date on the last day on which any of them changed
    days = [pl.col(name).filter(pl.col(name) <= today).max() for name in ("published", "updated")]
    newest = pl.scan_parquet(run / "papers.parquet").select(pl.max_horizontal(days)).collect().item()
    return (newest - timedelta(days=1)).isoformat() if newest else ""


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _digest(run: Run) -> str:
    return run.record("harvest").get("outputs", {}).get("papers.parquet", "")
