import json
import re
import shutil
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from typer.testing import CliRunner

from conftest import execute_here, make_project, write_archive
from servers.atom import Atom
from servers.base import Paper, spread
from servers.oai import Oai
from titlesmith.cli import app
from titlesmith.daily import update
from titlesmith.errors import RequestError, RunError
from titlesmith.experiment import Experiment, declared, find
from titlesmith.harvest import changes, client, harvest, oai
from titlesmith.pipeline import chain
from titlesmith.runs import Run

TODAY = datetime.now(UTC).replace(tzinfo=None)


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    monkeypatch.setattr(client, "TIMEOUT", (1, 0.4))
    if "kernel" not in request.keywords:
        for module in ("pipeline", "daily"):
            monkeypatch.setattr(f"titlesmith.{module}.execute", execute_here)


@pytest.fixture(scope="module")
def harvested(tmp_path_factory):
    """A project with a run ``r`` of 120 papers, harvested by OAI-PMH, from which tests start."""
    folder = make_project(tmp_path_factory.mktemp("harvested"))
    with pytest.MonkeyPatch.context() as patch, Oai(spread(120)) as server:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        server.size = 50
        chain(experiment(server), "r", until="harvest", echo=lambda line: None)
    return folder


@pytest.fixture
def run(harvested, project):
    shutil.copytree(harvested / "runs", project / "runs")
    return Run("r")


def experiment(server, *overrides):
    settings = (
        "harvest.source=oai",
        "harvest.categories=eess.AS",
        "harvest.path=",
        f"harvest.service={server.address}",
    )
    return Experiment.read(find("scratch-titles"), ("corpus.vocabulary=400", *settings, *overrides))


@pytest.fixture
def server(run):
    """The service some weeks later, at the address that the run knows: 3 new papers, 2 changed, 1 deleted, 1 same."""
    port = int(re.search(r":(\d+)/", run.record("harvest")["settings"]["service"])[1])
    papers, now = spread(120), f"{TODAY:%Y-%m-%d}"
    for number, paper in enumerate(papers[:4]):
        paper.stamp, paper.versions, paper.deleted = now, 2 if number < 2 else 1, number == 2
    papers += [Paper(f"2405.{n:05d}", datetime(2024, 5, 1 + n), stamp=now) for n in range(3)]
    with Oai(papers, port=port) as later:
        yield later


COUNTS = {"new": 3, "changed": 2, "deleted": 1, "unchanged": 1}


def papers(run):
    return pl.read_parquet(run / "papers.parquet")


def quiet(line):
    pass


@pytest.mark.kernel
def test_an_update_adds_changes_and_deletes_and_the_next_run_skips_the_harvest(run, server):
    before, shown = papers(run), run.executed("harvest").read_bytes()
    assert update(run, quiet) == COUNTS
    after = papers(run)
    assert set(after["id"]) == {p.number for p in server.papers if not p.deleted}
    assert after["id"].is_unique().all() and after["published"].is_sorted()
    changed = after.filter(pl.col("id").is_in([p.number for p in server.papers[:2]]))
    assert (changed["updated"] > changed["published"]).all()
    kept = before.filter(~pl.col("id").is_in([p.number for p in server.papers[:3]]))
    assert after.join(kept, on=after.columns, how="semi", nulls_equal=True).height == kept.height
    assert run.executed("harvest").read_bytes() != shown, "the notebook shows the papers that there are now"
    assert not (run / "update").exists()
    lines = []
    asked = len(server.asked)
    chain(experiment(server), "r", until="corpus", echo=lines.append)
    assert lines[0] == "[1/2] harvest: unchanged, skipped" and "running" in lines[1]
    assert len(server.asked) == asked


def test_papers_that_are_harvested_again_are_updated_from_their_own_dates(run, server):
    settings = run.record("harvest")["settings"]
    run.update_stage("harvest", requested="2024-05-01")  # as an update does
    run.begin("harvest", settings)
    harvest(run, settings | {"max_results": 50})  # without what the update brought
    assert run.record("harvest")["requested"] == f"{TODAY:%Y-%m-%d}", "the update is no longer among the papers"


def test_it_requests_changes_from_the_day_before_the_last_update(run, server):
    first = run.record("harvest")["settings"]["since"]
    update(run, quiet)
    update(run, quiet)
    day = f"{TODAY - timedelta(days=1):%Y-%m-%d}"
    assert first == "" and {q["from"] for q in server.asked if "from" in q} == {day}
    assert run.record("harvest")["requested"] == f"{TODAY:%Y-%m-%d}"


def test_a_clock_that_is_ahead_during_an_update_leaves_no_gap(run, server, monkeypatch):
    monkeypatch.setattr(client, "today", lambda: TODAY.date() + timedelta(days=1000))
    assert changes.fetch(run, run.record("harvest")["settings"])["day"] == f"{TODAY:%Y-%m-%d}"


def test_nothing_new_changes_nothing(run, server):
    server.papers = server.papers[3:120]
    before, notebook = run.digests("harvest"), run.executed("harvest").stat().st_mtime_ns
    assert update(run, quiet) == {"new": 0, "changed": 0, "deleted": 0, "unchanged": 1}
    assert run.digests("harvest") == before and run.executed("harvest").stat().st_mtime_ns == notebook


def test_a_paper_that_leaves_the_run_s_filters_counts_as_deleted(run, server):
    settings = run.record("harvest")["settings"] | {"until": "2024-04-01"}
    run.update_stage("harvest", settings=settings)
    server.papers[0].submitted += timedelta(days=120)
    assert changes.fetch(run, settings)["counts"] == {"new": 0, "changed": 1, "deleted": 2, "unchanged": 1}


def test_a_paper_that_is_listed_twice_counts_as_it_was_listed_last(run, server):
    settings = run.record("harvest")["settings"] | {"categories": ["eess.AS", "cs.SD"]}
    server.faults = {1: "delete"}  # the list of the second category knows more
    assert changes.fetch(run, settings)["counts"] == COUNTS | {"changed": 1, "deleted": 2}


def test_a_service_that_fails_leaves_the_run_unchanged_and_the_next_update_resumes(run, server):
    before = run.digests("harvest")
    server.size, server.faults, server.always = 3, {0: ""}, "failing"
    with pytest.raises(RunError, match="no usable answer"):
        update(run, quiet)
    assert run.digests("harvest") == before and run.is_current("harvest")
    asked, server.always = len(server.asked), ""
    assert changes.fetch(run, run.record("harvest")["settings"])["counts"] == COUNTS
    assert len(server.asked) == asked + 2, "the first of three pages was stored"


@pytest.mark.parametrize("finisher", ["update", "run"])
def test_an_interrupted_merge_resumes(run, server, finisher):
    changes.fetch(run, run.record("harvest")["settings"])
    run.update_stage("harvest", status="running")  # as a kill in the middle of the merge leaves it
    assert not run.is_current("harvest")
    asked = len(server.asked)
    if finisher == "update":
        assert update(run, quiet) == COUNTS
    else:
        chain(experiment(server), "r", until="harvest", echo=quiet)
    assert set(papers(run)["id"]) == {p.number for p in server.papers if not p.deleted}
    assert len(server.asked) == asked, "what was listed is not requested again"
    assert not changes.waiting(run), "it is merged once"


def test_changes_to_other_papers_are_not_merged(run, server):
    changes.fetch(run, run.record("harvest")["settings"])
    assert changes.waiting(run)
    run.clear("harvest")
    assert not changes.waiting(run)


def test_a_run_of_a_file_is_updated_from_the_last_day_on_which_any_of_its_papers_changed(project, server, monkeypatch):
    monkeypatch.setattr(oai, "SERVICE", server.address)
    rows = [{"title": p.title, "arxiv_id": p.number, "created": p.stamp, "abstract": p.abstract} for p in spread(60)]
    write_archive(project / "papers.tsv", rows)
    run = Run("file")
    settings = {name: parameter.default for name, parameter in declared("harvest").items()}
    settings |= {"source": "archive", "path": "papers.tsv", "categories": ["eess.AS"]}
    run.begin("harvest", settings)
    harvest(run, settings)
    counts = changes.fetch(run, settings)
    assert counts["since"] == "2024-03-29"
    assert counts["counts"]["new"] > 0


def atom(papers, project):
    return Atom(papers)


def snapshot(papers, project):
    lines = [
        {
            "id": p.number,
            "title": p.title,
            "abstract": f"  {p.abstract}\n",
            "authors": " and ".join(p.authors),
            "authors_parsed": [[name.split()[1], name.split()[0], ""] for name in p.authors],
            "categories": p.categories,
            "comments": "4 pages",
            "doi": None,
            "journal-ref": None,
            "versions": [{"version": f"v{n}", "created": f"{d:%a, %d %b %Y %T GMT}"} for n, d in enumerate(p.dates, 1)],
            "update_date": p.stamp,
        }
        for p in papers
    ]
    (project / "papers.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Atom([])


@pytest.mark.parametrize(("source", "made"), [("arxiv", atom), ("snapshot", snapshot)])
def test_a_paper_of_another_source_is_unchanged_until_it_changes(project, monkeypatch, source, made):
    papers = spread(60)
    for paper in papers[:20]:
        paper.versions = 2
    with made(papers, project) as first, Oai(papers) as server:
        monkeypatch.setattr(oai, "SERVICE", server.address)
        settings = {name: parameter.default for name, parameter in declared("harvest").items()}
        settings |= {"source": source, "service": first.address, "categories": ["eess.AS"], "until": "2024-12-31"}
        settings["path"] = "papers.json"
        run = Run("r")
        run.begin("harvest", settings)
        harvest(run, settings)
        run.update_stage("harvest", requested="2024-01-01")
        for paper in papers[:2]:
            paper.abstract = "Another one"
        counts = changes.fetch(run, settings)["counts"]
    assert counts == {"new": 0, "changed": 2, "deleted": 0, "unchanged": 58}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "rss"}, r"\(not rss\)"),
        ({"query": "ti:x"}, "a query .'ti:x'"),
    ],
)
def test_runs_that_cannot_be_updated_are_refused(run, settings, said):
    run.update_stage("harvest", settings=run.record("harvest")["settings"] | settings)
    with pytest.raises(RequestError, match=said):
        update(run, quiet)


def test_a_run_of_another_notebook_is_refused(run, server, project):
    path = project / "notebooks" / "01_harvest.ipynb"
    path.write_text(path.read_text().replace("## Papers", "## The papers"))
    with pytest.raises(RequestError, match="harvests it again"):
        update(run, quiet)
    assert not server.asked and (run / "papers.parquet").exists()


def test_a_run_that_does_not_exist_or_is_not_harvested(run):
    with pytest.raises(RequestError, match="there is no run other; there are r"):
        update(Run("other"))
    run.update_stage("harvest", status="running")
    with pytest.raises(RunError, match="its harvest"):
        update(run)


def test_the_command_prints_the_counts_and_what_to_do_next(run, server):
    run.update_stage("corpus", status="done")
    printed = CliRunner().invoke(app, ["update", "r"]).output
    assert re.search(r"new +3\nchanged +2\ndeleted +1\nunchanged +1\npapers +122\n.*titlesmith run", printed)
