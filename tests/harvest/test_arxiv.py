import os
import resource
import signal
import subprocess
import sys
import time
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from servers.atom import Atom
from servers.base import Paper, spread
from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, arxiv, client
from titlesmith.harvest.faults import Faults

SETTINGS = {"query": "", "categories": ["eess.AS"], "since": "", "until": "2024-12-31", "max_results": 0}


FAULTS = ["failing", "reset", "cut", "html", "moved", "empty", "repeat"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    monkeypatch.setattr(client, "TIMEOUT", (1, 0.4))
    monkeypatch.setattr(arxiv, "PAGE", 10)


def harvest(server, folder, faults=None, **changed):
    return pl.concat(arxiv.read(SETTINGS | {"service": server.address} | changed, folder, faults or Faults()))


def ids(papers):
    return sorted(papers["id"].to_list())


def numbers(server):
    return sorted(p.number for p in server.papers)


def test_a_paper_with_all_its_fields(tmp_path):
    with Atom([Paper("2402.00001", datetime(2024, 2, 29, 23, 59, 30), versions=2)]) as server:
        found = harvest(server, tmp_path)
    assert dict(found.schema) == SCHEMA
    assert found.to_dicts() == [
        {
            "id": "2402.00001",
            "title": "Paper 2402.00001 on sound & <noise>",
            "abstract": "We study sound & <math>.\n  It is loud.",
            "authors": ["Ada Byron", "Émile Borel"],
            "categories": ["eess.AS", "cs.SD"],
            "primary_category": "eess.AS",
            "published": date(2024, 2, 29),
            "updated": date(2024, 3, 30),
            "doi": None,
            "journal_ref": None,
            "comments": "4 pages",
        }
    ]


def test_month_windows_from_the_oldest_paper_to_the_last_day(tmp_path):
    with Atom(spread(60)) as server:
        assert ids(harvest(server, tmp_path, until="2024-03-20")) == [
            p.number for p in server.papers if p.stamp < "2024-03-21"
        ]
        windows = {q["search_query"].partition("AND ")[2] for q in server.asked}
    assert windows == {
        "submittedDate:[198001010000 TO 202403202359]",
        "submittedDate:[202401010000 TO 202401312359]",
        "submittedDate:[202402010000 TO 202402292359]",
        "submittedDate:[202403010000 TO 202403202359]",
    }


def test_query_categories_and_dates_go_into_one_search(tmp_path):
    with Atom(spread(3)) as server:
        harvest(server, tmp_path, query='ti:"a b" OR ti:sound', categories=["cs.SD", "eess.AS"], since="2024-01-01")
    said = {q["search_query"] for q in server.asked}
    start = '(ti:"a b" OR ti:sound) AND (cat:cs.SD OR cat:eess.AS) AND submittedDate:[2024'
    assert all(s.startswith(start) for s in said)


def test_a_window_with_too_many_papers_is_halved_down_to_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(arxiv, "CAP", 12)
    close = [Paper(f"2405.{n:05d}", datetime(2024, 5, 1, 0, n, 30)) for n in range(40)]
    with Atom([*spread(30), *close]) as server:
        found = harvest(server, tmp_path)
    assert ids(found) == numbers(server)
    assert max(pl.read_parquet(path).height for path in tmp_path.glob("*.parquet")) <= 12


def test_max_results_takes_the_newest_and_asks_no_more_than_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(arxiv, "CAP", 12)
    with Atom(spread(60)) as server:
        found = harvest(server, tmp_path, max_results=7, until="2024-03-31")
        newest = sorted(server.papers, key=lambda p: p.submitted)[-7:]
        assert {p.number for p in newest} <= set(found["id"])
        assert not any("20240101" in q["search_query"] or "202402" in q["search_query"] for q in server.asked[1:])


@pytest.mark.parametrize("request_number", [0, 1, 2, 4])
@pytest.mark.parametrize("fault", ["failing", "hang", "reset", "cut", "html", "moved", "empty", "nothing", "repeat"])
def test_every_paper_once_after_a_fault(tmp_path, fault, request_number):
    with Atom(spread(70), {request_number: fault}) as server:
        found = harvest(server, tmp_path)
    assert len(server.asked) > request_number + 1
    assert ids(found) == numbers(server)


@given(
    faults=st.dictionaries(st.integers(0, 25), st.sampled_from(FAULTS), max_size=12),
    count=st.integers(1, 90),
    page=st.integers(1, 12),
    cap=st.integers(1, 40),
)
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
def test_whatever_fails_every_paper_comes_once_or_the_harvest_ends_and_goes_on_later(
    tmp_path_factory, faults, count, page, cap
):
    folder = tmp_path_factory.mktemp("law")
    with Atom(spread(count), faults) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(arxiv, "PAGE", page)
        patch.setattr(arxiv, "CAP", cap)
        assert ids(until_whole(server, folder)) == numbers(server)


def until_whole(server, folder):
    for _ in range(5):  # it takes at least three faults to end a harvest
        try:
            return harvest(server, folder)
        except RunError as error:
            said = str(error)
    raise AssertionError(said)


@pytest.mark.parametrize("fault", ["seconds", "date"])
def test_retry_after_is_waited_for_in_both_forms(tmp_path, fault):
    with Atom(spread(5), {1: fault}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)
    assert server.asked[1] == server.asked[2] and server.early == 0


@pytest.mark.parametrize("fault", ["grow", "shrink"])
def test_a_total_that_changes_between_pages(tmp_path, fault):
    with Atom(spread(25, days=20), {2: fault}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("failing", "sent no usable answer in 3 attempts: HTTP 500"),
        ("html", "not a complete document"),
        ("forever", "requests a pause .HTTP 503, Retry-After: 86400.*what was harvested is kept"),
        ("repeat", "arXiv counts 24 papers from 2024-02-01 00:00 to 2024-02-29 23:59 and sends .*resumes there"),
        ("empty", "arXiv counts 24 papers from 2024-02-01"),
    ],
)
def test_a_service_that_goes_on_failing_ends_the_harvest_and_the_next_start_goes_on(tmp_path, always, said):
    with Atom(spread(75), dict.fromkeys(range(4), ""), always) as server:  # the oldest paper and the 26 of January
        with pytest.raises(RunError, match=said):
            harvest(server, tmp_path)
        server.always, before = "", len(server.asked)
        assert ids(harvest(server, tmp_path)) == numbers(server)
        assert not any("[20240101" in q["search_query"] for q in server.asked[before:])


def test_papers_that_arxiv_counts_and_no_month_holds_are_counted(tmp_path):
    faults = Faults()
    with Atom(spread(20), dict.fromkeys((1, 2), "nothing")) as server:  # twice, so that January is taken for empty
        found = harvest(server, tmp_path, faults)
    (entry,) = faults.reasons.values()
    assert entry["rows"] == 20 - found.height > 0 and "arXiv counts 20" in entry["examples"][0]


@pytest.mark.parametrize(
    "stated", ["2024-02-30T00:00:00Z", "9999-12-31T23:59:59-23:00", "2199-01-01T00:00:00Z", "x", ""]
)
@pytest.mark.parametrize("number", [0, 5])
def test_an_impossible_date_is_counted_and_loses_no_other_paper(tmp_path, stated, number):
    papers, faults = spread(25), Faults()
    papers[number].shown = stated
    with Atom(papers) as server:
        assert ids(harvest(server, tmp_path, faults)) == [p.number for p in papers if p is not papers[number]]
        (entry,) = faults.reasons.values()
        assert entry["rows"] == 1 and papers[number].number in entry["examples"][0]
        again = Faults()
        harvest(server, tmp_path, again)
        assert again.reasons == faults.reasons, "stored windows keep what was wrong in them"


@pytest.mark.parametrize("total", ["abc", "-3", "", "1e5", "9" * 5000])
def test_a_count_that_is_not_one_is_counted_and_loses_no_paper(tmp_path, total):
    faults = Faults()
    with Atom(spread(25)) as server:
        server.total = total
        assert ids(harvest(server, tmp_path, faults)) == numbers(server)
    (entry,) = faults.reasons.values()
    assert entry["rows"] >= 3 and "without a count" in next(iter(faults.reasons))


def test_pages_that_repeat_each_other_end_the_harvest(tmp_path):
    with Atom(spread(25, days=20), always="again") as server, pytest.raises(RunError, match="10 different ones"):
        server.total = 9000
        harvest(server, tmp_path)
    assert len(server.asked) < 12


def test_a_search_without_papers_yields_none(tmp_path):
    with Atom([]) as server:
        assert not list(arxiv.read(SETTINGS | {"service": server.address}, tmp_path, Faults()))


def test_a_refused_query_says_why(tmp_path):
    with Atom([], always="error") as server, pytest.raises(RequestError, match="malformed query"):
        harvest(server, tmp_path, query="ti:(")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"categories": []}, "needs harvest.categories or harvest.query"),
        ({"categories": ["eess.AS", "eees.AS"]}, "'eees.AS' is not a category of arXiv.*Did you mean eess.AS"),
        ({"categories": ["cs.ai"]}, "Did you mean cs.AI"),
        ({"categories": ["cs"]}, "archive of several categories"),
        ({"categories": ["cs.AI OR cat:x"]}, "not a category"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_asked(changed, said):
    with pytest.raises(RequestError, match=said):
        arxiv.check(SETTINGS | changed)


def test_all_forms_of_categories_are_taken():
    arxiv.check(SETTINGS | {"categories": ["hep-th", "math.AG", "cond-mat.mes-hall", "physics.optics", "astro-ph"]})


HARVESTER = """
import sys
from pathlib import Path
from titlesmith.harvest import arxiv
from titlesmith.harvest.faults import Faults
arxiv.PAGE = 10
settings = {"query": "", "categories": ["eess.AS"], "since": "", "until": "2024-12-31", "max_results": 0}
list(arxiv.read(settings | {"service": sys.argv[1]}, Path(sys.argv[2]), Faults()))
"""


def start(server, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", HARVESTER, server.address, str(folder)], env=dict(os.environ), **options
    )


def test_kill_9_in_the_middle_and_on(tmp_path):
    with Atom(spread(75), {6: "hang"}) as server:  # within February
        killed = start(server, tmp_path, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while len(server.asked) < 7 and time.monotonic() < until:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        server.ended.set()
        assert len(server.asked) == 7
        assert ids(harvest(server, tmp_path)) == numbers(server)
        assert not any("[20240101" in q["search_query"] for q in server.asked[7:])


def test_a_full_disk_says_so_and_keeps_the_windows_before_it(tmp_path):
    papers = spread(75)
    for paper in papers[40:]:
        paper.abstract = os.urandom(40_000).hex()  # what follows January is larger than the disk

    def little():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with Atom(papers) as server:
        full = start(server, tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=little)
        _, said = full.communicate(timeout=60)
        assert full.returncode == 1 and "File too large" in said
        assert [path.name for path in tmp_path.glob("*.parquet")] == ["202401010000-202401312359.parquet"]
        assert ids(harvest(server, tmp_path)) == numbers(server)


def test_arxiv_is_asked_once_every_three_seconds_by_all_processes_together(project, monkeypatch):
    monkeypatch.setattr(client, "ARXIV", ("127.0.0.1",))
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(2):
        with client.turn("http://127.0.0.1/api"):
            pass
    with client.turn("http://example.org/"):
        pass
    assert len(slept) == 1 and client.DELAY - 1 < slept[0] <= client.DELAY
    assert (project / "runs" / ".arxiv.asked").exists(), "other processes see it"
