import random
import signal
import subprocess
import sys
import time
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import write_archive
from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA, Papers, check, harvest, sample, store
from titlesmith.runs import Run

ALL = {"categories": [], "since": "", "until": "", "max_results": 0, "columns": {}, "encoding": "utf-8", "path": ""}


def harvested(**given) -> Papers:
    run = Run("r")
    run.begin("harvest", {})
    return harvest(run, ALL | given)


@pytest.fixture
def batches(project, monkeypatch):
    """Makes the sample source yield these batches."""

    def yielding(*tables: pl.DataFrame) -> Papers:
        monkeypatch.setattr(sample, "read", lambda settings, folder, faults: iter(tables))
        return harvested(source="sample")

    return yielding


day = st.none() | st.integers(0, 4).map(lambda n: date(2020, 1, 1) + timedelta(n))
paper = st.tuples(st.integers(0, 30).map(str), day, day)
tables = st.lists(st.lists(paper, max_size=20), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(tables, st.integers(0, 12), st.integers(1, 30))
def test_each_id_once_the_latest_of_them_and_the_oldest_first(tmp_path_factory, tables, newest, size):
    folder = tmp_path_factory.mktemp("spool")
    kinds = {"id": pl.String, "published": pl.Date, "updated": pl.Date, "place": pl.Int64}
    place, rows = 0, []
    with pytest.MonkeyPatch.context() as patch, store.Spool(folder / "s") as papers:
        patch.setattr(store, "ROWS", size)
        for table in tables:
            numbered = [(*row, place + i) for i, row in enumerate(table)]
            papers.add(pl.DataFrame(numbered, kinds, orient="row"))
            rows, place = rows + numbered, place + len(table)
        if not rows:
            return
        different = papers.write(folder / "p.parquet", newest)
    chosen = {}
    for row in sorted(rows, key=lambda row: (row[2] or date.min, row[3])):
        chosen[row[0]] = row
    expected = sorted(chosen.values(), key=lambda row: (row[1] or date.min, row[0]))
    assert different == len(expected)
    assert pl.read_parquet(folder / "p.parquet").rows() == expected[-newest:]
    assert not (folder / "s").exists()


def test_columns_of_all_batches_are_kept_in_their_types(batches):
    papers = batches(
        pl.DataFrame({"id": ["c"], "published": [date(2020, 1, 3)], "genre": [None]}),
        pl.DataFrame({"id": ["b"], "published": [date(2020, 1, 2)], "genre": ["tragedy"]}),
        pl.DataFrame({"id": ["a"], "published": [date(2020, 1, 1)], "stars": [5], "genre": [None]}),
    )
    assert papers.scan().collect_schema() == SCHEMA | {"genre": pl.String, "stars": pl.Int64}
    table = papers.scan().select("id", "genre", "stars", "title").collect()
    assert table.rows() == [("a", None, 5, None), ("b", "tragedy", None, None), ("c", None, None, None)]


def test_what_is_not_kept_is_counted(batches, monkeypatch):
    days = [date(2020, 1, n) for n in (1, 2, 3, 3)]
    monkeypatch.setitem(ALL, "since", "2020-01-02")
    monkeypatch.setitem(ALL, "max_results", 1)
    papers = batches(pl.DataFrame({"id": ["a", "b", "c", "c"], "published": days}))
    assert papers.counts == {"read": 4, "outside": 1, "repeated": 1, "beyond": 1, "kept": 1}
    assert papers.scan().collect()["id"].to_list() == ["c"]
    assert Run("r").record("harvest")["counts"] == papers.counts


def test_a_sample_reads_only_its_rows(batches):
    days = [date(2020, 1, 1) + timedelta(n) for n in range(300)]
    papers = batches(pl.DataFrame({"id": [f"{n:03d}" for n in range(300)], "published": days}))
    assert papers.sample(8, seed=1)["id"].is_sorted()
    assert papers.sample(8, seed=1)["id"].n_unique() == 8
    assert not papers.sample(8, seed=1).equals(papers.sample(8, seed=2))
    assert papers.sample(999, seed=1).height == 300


def test_of_the_sources_folder_only_the_day_of_the_first_request_remains_in_the_record(batches):
    folder = Run("r") / "harvest"
    store.first_day(folder, date(2020, 1, 1))
    (folder / "2020-01.parquet").write_text("{}")
    Run("r").update(stages={"harvest": {"status": "running", "fingerprint": Run("r").fingerprint("harvest", {}, "")}})
    batches(pl.DataFrame({"id": ["a"]}))
    assert not folder.exists()
    assert Run("r").record("harvest")["requested"] == "2020-01-01"
    assert set(Run("r").record("harvest")["outputs"]) == {"papers.parquet"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "archive"}, "add -p harvest.path=FILE"),
        ({"source": "snapshot", "path": "nowhere.json"}, "nowhere.json is missing or empty"),
        ({"source": "sample", "since": "2021-01-01", "until": "2020-01-01"}, "is after harvest.until"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(project, given, said):
    with pytest.raises(RequestError) as error:
        check(ALL | given)
    assert said in str(error.value)


CHILD = """
import resource, sys
from titlesmith.harvest import csv, harvest, store
from titlesmith.runs import Run

path, limit = sys.argv[1], int(sys.argv[2])
settings = {"source": "archive", "path": path, "categories": [], "since": "", "until": "", "max_results": 0}
settings |= {"encoding": "utf-8"}
store.ROWS, csv.BATCH = 2000, 1000  # so that there are many batches and row groups
run = Run("r")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
else:
    run.begin("harvest", settings)
harvest(run, settings)
"""


@pytest.fixture
def many(tmp_path):
    """An archive of 20,000 papers whose abstracts do not compress."""
    draw = random.Random(1)
    rows = [{"title": f"paper {i}", "abstract": draw.randbytes(200).hex()} for i in range(20000)]
    return write_archive(tmp_path / "many.tsv", rows)


@pytest.mark.parametrize("moment", [".spool/000002.parquet", ".papers.parquet.partial"])
def test_after_a_kill_there_is_no_partial_table_and_the_next_attempt_is_complete(project, many, moment):
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(many), "0"])
    path, end = Run("r") / moment, time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert path.exists()
    assert not (Run("r") / "papers.parquet").exists()
    assert harvested(source="archive", path=str(many)).counts["kept"] == 20000
    assert sorted(p.name for p in Run("r").path.iterdir()) == [".stage.lock", "papers.parquet", "run.json"]


@pytest.mark.parametrize(("limit", "name"), [(50_000, "000000.parquet"), (1_000_000, "papers.parquet")])
def test_a_full_disk_is_reported_and_the_old_table_stays(project, archive, many, limit, name):
    harvested(source="archive", path=str(archive))
    old = (Run("r") / "papers.parquet").read_bytes()
    done = subprocess.run([sys.executable, "-c", CHILD, str(many), str(limit)], capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert f"{name} cannot be written" in said and "File too large" in said and "Free some space" in said
    assert (Run("r") / "papers.parquet").read_bytes() == old
    assert not (Run("r") / ".spool").exists()
