"""Changes to papers that a run has: listed by OAI-PMH, compared with the papers, and merged by the next harvest.

Until then ``update/`` of the run directory has the pages of the lists, ``state.json``, and ``rows.parquet`` with the
papers that are new, changed or ``deleted`` (only their ids).
"""

import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from titlesmith.errors import RequestError
from titlesmith.harvest import client, oai
from titlesmith.harvest.categories import check_categories
from titlesmith.harvest.schema import SCHEMA, Faults, matching
from titlesmith.harvest.store import first_day, write_parquet
from titlesmith.runs import Run, write_json

# Fields that a source lacks or writes in another form than OAI-PMH, so that a difference is not a change
OWN = {"oai": [], "arxiv": ["authors", "submitter", "license", "report_no", "versions"]}
OWN["snapshot"] = [*OWN["arxiv"], "updated"]
OWN["archive"] = [*OWN["snapshot"], "journal_ref"]
ROWS = 50_000  # papers held in memory at once


def check(settings: dict, name: str) -> None:
    """Checks that a harvest with these settings can be updated by OAI-PMH (else RequestError with ``name``)."""
    source, query = settings.get("source"), settings.get("query")
    if source not in OWN or query:
        raise RequestError(
            f"{name} cannot be updated: OAI-PMH lists categories for runs of the sources {', '.join(OWN)} (not "
            f"{source}) without a query ({query!r}); harvest with source oai, or again: titlesmith run --from harvest"
        )
    check_categories(settings["categories"])


def state(run: Run) -> dict:
    """The state of the changes to the run's papers; empty if there is none.

    Keys: the first day of the changes (``since``); once all are compared, also the ``day`` of the request, ``counts``
    (``new changed deleted unchanged``) and ``faults``.
    """
    path = run / "update" / "state.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def waiting(run: Run) -> bool:
    """Whether there are changes that the next harvest is to merge, instead of reading the source."""
    return "counts" in state(run)


def fetch(run: Run, settings: dict) -> dict:
    """Lists what changed since the run's papers were harvested or updated, and compares it with them.

    Returns the `state`, which stays until the next day or until the changes are merged. An interrupted call resumes.
    """
    folder = run / "update"
    known = state(run)
    if "counts" in known and known["day"] == client.today().isoformat():
        return known
    if not known or "counts" in known:
        shutil.rmtree(folder, ignore_errors=True)
        known = {"since": _since(run)}
        write_json(folder / "state.json", known)
    address = settings["service"] if settings["source"] == "oai" else ""
    listed = oai.pages(address, folder / "pages", settings["categories"], known["since"])
    listed = pl.concat([pl.DataFrame(schema=oai.PAGE), *listed])
    known |= {"day": first_day(folder / "pages")} | _compare(run, settings, listed)
    write_json(folder / "state.json", known)
    return known


def added(run: Run) -> pl.DataFrame:
    """The listed papers that the run lacks, with the column ``announced``: the day on which arXiv changed them last."""
    old = pl.scan_parquet(run / "papers.parquet").select("id")
    new = pl.scan_parquet(run / "update" / "rows.parquet").join(old, on="id", how="anti")
    return new.with_columns(pl.col("announced").fill_null(state(run)["day"])).sort("announced", "id").collect()


def read(settings: dict, folder: Path, faults: Faults) -> Iterator[pl.DataFrame]:
    """Yields the run's papers with the changes, like a source; ``folder`` is any folder in the run's."""
    run = folder.parent
    faults |= json.loads((run / "update" / "state.json").read_text("utf-8"))["faults"]
    rows = pl.read_parquet(run / "update" / "rows.parquet")
    old = pl.scan_parquet(run / "papers.parquet")
    for start in range(0, old.select(pl.len()).collect().item(), ROWS):
        yield old.slice(start, ROWS).filter(~pl.col("id").is_in(rows["id"].implode())).collect()
    yield rows.filter(~pl.col("deleted")).drop("deleted", "announced")


def _compare(run: Run, settings: dict, listed: pl.DataFrame) -> dict[str, dict]:
    """Writes the new, changed and deleted rows of the list; returns `state`'s counts and faults."""
    faults = Faults()
    old = pl.scan_parquet(run / "papers.parquet")
    fields = [name for name in SCHEMA if name not in OWN[settings["source"]]]
    # Papers that are older than the newest max_results stay out
    oldest, papers = old.select(pl.min("published"), pl.len()).collect().row(0)
    if 0 < settings["max_results"] <= papers:
        settings = settings | {"since": max(settings["since"], f"{oldest}")}
    # A paper that is listed twice counts as it was listed last
    listed = faults.sift_records(listed).sort("changed", maintain_order=True)
    listed = listed.unique("id", keep="last", maintain_order=True)
    # Compare the list with the papers of the same ids
    before = old.filter(pl.col("id").is_in(listed["id"].implode())).collect()
    now = matching(listed.filter(~pl.col("deleted")), settings).drop("fault").rename({"changed": "announced"})
    same = _folded(now, fields).join(_folded(before, fields), on=fields, how="semi", nulls_equal=True)
    new = now.join(before, on="id", how="anti")
    changed = now.join(new, on="id", how="anti").join(same, on="id", how="anti")
    deleted = before.join(now, on="id", how="anti").select("id", deleted=True)
    rows = pl.concat([before.clear(), new, changed, deleted], how="diagonal")
    write_parquet(run / "update" / "rows.parquet", rows.lazy())
    counts = {"new": new.height, "changed": changed.height, "deleted": deleted.height, "unchanged": same.height}
    return {"counts": counts, "faults": faults}


def _folded(rows: pl.DataFrame, fields: list[str]) -> pl.DataFrame:
    """Fields normalized for comparison: single spaces, and empty texts for null."""
    texts = pl.col(name for name in fields if SCHEMA[name] == pl.String)
    return rows.select(fields).with_columns(texts.fill_null("").str.replace_all(r"\s+", " ").str.strip_chars())


def _since(run: Run) -> str:
    """The first day whose changes the run's papers may lack: a day before it was harvested or updated last."""
    if requested := run.record("harvest").get("requested"):
        day = date.fromisoformat(requested)
    else:
        # All papers of a file were up to date on the last day on which any of them changed
        days = [pl.col(name).filter(pl.col(name) <= client.today()).max() for name in ("published", "updated")]
        day = pl.scan_parquet(run / "papers.parquet").select(pl.max_horizontal(days)).collect().item()
    return (day - timedelta(days=1)).isoformat() if day else ""
