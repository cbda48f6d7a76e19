"""Days of a run, against a local OAI-PMH service whose list grows: nothing is lost, and nothing comes twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta

import polars as pl
import pytest

from conftest import HOSTILE, ROOT, SMALL, SMALL_SCRATCH, execute_here
from servers.base import Paper
from servers.oai import Oai
from titlesmith import daily as days
from titlesmith.book.pages import render_days
from titlesmith.daily import daily
from titlesmith.errors import RequestError, RunError
from titlesmith.experiment import Experiment, find
from titlesmith.harvest import client
from titlesmith.runs import Run
from titlesmith.train.monitor import read

MONDAY = date(2024, 6, 3)


def announce(day: date, count: int) -> list[Paper]:
    """Papers that arXiv announces on a day, submitted on the day before."""
    submitted = datetime(day.year, day.month, day.day) - timedelta(hours=9)
    numbers = [f"{day:%y%m}.{day.day:02d}{n:03d}" for n in range(count)]
    return [
        Paper(number, submitted, title=f"Neural sound number {number}", abstract=f"We study {number}.", stamp=f"{day}")
        for number in numbers
    ]


@pytest.fixture
def service(project, monkeypatch, in_process):
    """The service with a hundred papers of earlier months, on a day that tests choose."""
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)
    papers = [paper for n in range(25) for paper in announce(date(2024, 5, 1) + timedelta(n), 4)]
    with Oai(papers) as server:
        server.size = 40
        yield server


def experiment(address, *overrides):
    source = ("source=oai", "categories=eess.AS", "path=", f"service={address}")
    given = [*SMALL, *(f"harvest.{setting}" for setting in source), "corpus.template={abstract} -> {title}"]
    given += ["generate.held_out=2", "generate.prefixes=['']", "generate.count=2"]
    return Experiment.read(find("scratch-titles"), (*given, *overrides))


def job(address: str, number: int, place: str) -> None:
    """A day's job, slow in one place, in a separate process that a test kills."""
    import titlesmith.pipeline
    from titlesmith.generate.generator import TextGenerator
    from titlesmith.train.monitor import Monitor

    def slow(function):
        def wait_first(*arguments, **values):
            time.sleep(0.5)
            return function(*arguments, **values)

        return wait_first

    titlesmith.pipeline.execute = days.execute = execute_here
    titlesmith.models.SCRATCH["scratch"] |= SMALL_SCRATCH
    titlesmith.generate.generator.BLOCK = 4
    if place == "generation":
        TextGenerator.block = slow(TextGenerator.block)
    if place == "training":
        Monitor.step = slow(Monitor.step)
    client.today = lambda: MONDAY + timedelta(number)
    daily(experiment(address), "r", retrain=12)


def kill(service: Oai, number: int, place: str, when: Callable[[], bool]) -> None:
    """Starts a day's job and kills it as soon as a condition holds."""
    code = f"import test_daily; test_daily.job({service.address!r}, {number}, {place!r})"
    paths = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    started = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths})
    try:
        while not when() and started.poll() is None:
            time.sleep(0.02)
    finally:
        started.kill()
    assert started.wait() == -signal.SIGKILL


def test_a_week_with_a_weekend_a_storm_three_killed_jobs_and_a_repetition(service, monkeypatch):
    trainings = []

    def execute(run, stage, settings):
        trainings.extend([stage] if stage == "finetune" else [])
        execute_here(run, stage, settings)

    def call(number: int) -> list[dict]:
        monkeypatch.setattr(client, "today", lambda: MONDAY + timedelta(number))
        return daily(experiment(service.address), "r", retrain=12, echo=lambda line: None)

    monkeypatch.setattr("titlesmith.pipeline.execute", execute)
    run, new = Run("r"), {}

    # Monday: the first training; arXiv has announced nothing since
    assert call(0) == [] and trainings == ["finetune"]
    # Tuesday, and a second job on that day: not a byte changes
    new[1] = announce(MONDAY + timedelta(1), 4)
    service.papers += new[1]
    call(1)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    asked = len(service.asked)
    call(1)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert len(service.asked) == asked
    # Wednesday: the service refuses everything
    new[2] = announce(MONDAY + timedelta(2), 4)
    service.papers += new[2]
    service.always = "seconds"
    with pytest.raises(RunError, match="HTTP 503"):
        call(2)
    assert {row["id"] for row in run.daily} == {paper.number for paper in new[1]}
    service.always = ""
    # Thursday: a job is killed between two pages of the list, and another one between two blocks of titles
    new[3] = announce(MONDAY + timedelta(3), 4)
    service.papers += new[3]
    service.size, asked = 2, len(service.asked)
    service.faults[asked + 2] = "hang"
    kill(service, 3, "harvest", lambda: len(service.asked) > asked + 2)
    kill(service, 3, "generation", lambda: len(run.daily) > len(new[1]))
    assert len(new[1]) < len(run.daily) < sum(map(len, new.values()))
    # Friday catches up, and is killed in its training
    kill(service, 4, "training", lambda: run.record("corpus").get("status") == "done" and steps(run) == [1, 2, 3])
    assert run.record("finetune")["status"] == "running"
    # Saturday ends the training; on Sunday there is nothing
    for number in (5, 6):
        call(number)
    assert trainings == ["finetune"] * 2 and steps(run) == [1, 2, 3, 4, 5, 6]
    # Nothing is lost, nothing comes twice, each paper is on the page of its day
    rows = run.daily
    assert [(row["day"], row["id"]) for row in rows] == [
        (f"{MONDAY + timedelta(number)}", paper.number) for number, papers in new.items() for paper in papers
    ]
    assert all(len(row["titles"]) <= 2 and row["title"] == f"Neural sound number {row['id']}" for row in rows)
    assert any(row["titles"] for row in rows)
    assert run.complete and set(pl.read_parquet(run / "papers.parquet")["id"]) == {p.number for p in service.papers}


def steps(run: Run) -> list[int]:
    return [int(row["step"]) for row in read(run / "history.csv")] if (run / "history.csv").exists() else []


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["harvest.source=rss"], "cannot be updated: OAI-PMH"),
        (["corpus.template=title", "generate.held_out=0"], "does not make titles from abstracts"),
    ],
)
def test_other_experiments_are_refused_before_anything_runs(service, overrides, said):
    with pytest.raises(RequestError, match=said):
        daily(experiment(service.address, *overrides))
    assert not service.asked


def write(run: Run, rows: list[dict]) -> None:
    (run / days.FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_days_before_the_last_thirty_leave_only_ids(project, monkeypatch):
    run = Run("r")
    run.update(model="x")
    rows = [
        {"day": day, "id": number, "category": "eess.AS", "title": "A", "titles": ["B"]}
        for day, number in (("2024-05-01", "1"), ("2024-05-01", "2"), ("2024-06-01", "3"))
    ]
    write(run, rows)
    monkeypatch.setattr(days, "generate", lambda run, papers: [[rows[2] | {"id": paper["id"]} for paper in papers]])
    listed = pl.DataFrame({"id": ["2", "4", "5"], "announced": ["2024-06-02", "2024-06-02", "2024-05-02"]})
    assert [row["id"] for row in days.write_titles(run, listed)] == ["1", "2", "3", "4"]
    assert run.daily[:2] == [{"day": "2024-05-01", "id": "1"}, {"day": "2024-05-01", "id": "2"}]
    assert [row["id"] for row in days.write_titles(run, listed.clear())] == ["1", "2", "3", "4"]


def test_pages_hide_the_title_and_escape_everything(project):
    run = Run("r")
    run.update(stages={"harvest": {"settings": {"categories": ["cs.CL"]}}})
    row = {"day": "2024-06-01", "id": '"><script>', "category": HOSTILE, "title": HOSTILE, "titles": [HOSTILE]}
    write(run, [row, row | {"day": "2024-06-02", "titles": []}, {"day": "2024-01-01", "id": "x"}])
    pages = render_days(run)
    assert list(pages) == ["daily.md", "daily-2024-06-01.md"]
    assert "daily-2024-06-01.md" in pages["daily.md"].replace("\\", "") and "2 June 2024" in pages["daily.md"]
    shown = pages["daily-2024-06-01.md"]
    assert (
        "<script>" not in "".join(pages.values())
        and "# 1 June 2024 in cs" in shown
        and "# Today in cs" in pages["daily.md"]
    )
    assert shown.index("<details>") < shown.index("arxiv.org/abs/") < shown.rindex("alert")
    write(run, [row | {"day": "../x"}])
    with pytest.raises(ValueError, match="isoformat"):
        render_days(run)


def test_a_run_without_new_papers_has_no_page(project):
    assert render_days(Run("r")) == {}
