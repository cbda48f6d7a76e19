import os
import re
import resource
import signal
import subprocess
import sys
import time
from datetime import date, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from servers.atom import Atom
from servers.base import Paper, spread
from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, arxiv, check, client
from titlesmith.harvest.schema import Faults

SETTINGS = {
    "source": "arxiv",
    "query": "",
    "categories": ["eess.AS"],
    "since": "",
    "until": "2024-12-31",
    "max_results": 0,
}


FAULTS = ["failing", "reset", "cut", "html", "moved", "empty", "repeat"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    monkeypatch.setattr(client, "TIMEOUT", (1, 0.4))
    monkeypatch.setattr(arxiv, "PAGE", 10)
    monkeypatch.setattr(arxiv, "CAP", 30)


def harvest(server, folder, faults=None, **changed):
    faults = Faults() if faults is None else faults
    return pl.concat(arxiv.read(SETTINGS | {"service": server.address} | changed, folder, faults))


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
            **dict.fromkeys(("submitter", "license", "report_no", "versions")),
        }
    ]


def windows(server):
    """The first and last minute of each requested window, without the initial count."""
    return [tuple(re.search(r"\[(\d+) TO (\d+)\]", q["search_query"]).groups()) for q in server.asked[1:]]


def test_a_short_list_is_one_window(tmp_path):
    with Atom(spread(20)) as server:
        found = harvest(server, tmp_path, since="2023-12-01", until="2024-03-20")
    assert ids(found) == [p.number for p in server.papers if p.stamp < "2024-03-21"]
    assert set(windows(server)) == {("202312010000", "202403202359")}
    assert len(server.asked) == 3


def test_a_long_list_is_halved_until_every_window_is_short(tmp_path):
    with Atom(spread(100)) as server:
        found = harvest(server, tmp_path)
    assert ids(found) == numbers(server)
    stored = sorted(path.stem.split("-") for path in tmp_path.glob("*.parquet"))
    assert stored[0][0] == "198001010000" and stored[-1][1] == "202412312359"
    minutes = [(datetime.strptime(begin, "%Y%m%d%H%M"), datetime.strptime(end, "%Y%m%d%H%M")) for begin, end in stored]
    assert all(end + arxiv.MINUTE == begin for (_, end), (begin, _) in pairwise(minutes))
    assert max(pl.read_parquet(path).height for path in tmp_path.glob("*.parquet")) <= 30


def test_windows_of_another_day_are_reused(tmp_path, monkeypatch):
    with Atom(spread(20)) as server:
        harvest(server, tmp_path, until="")
        asked = len(server.asked)
        monkeypatch.setattr(client, "today", lambda: date(2199, 1, 1))
        assert ids(harvest(server, tmp_path, until="")) == numbers(server)
        assert len(server.asked) == asked + 1, "for the count"


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


def test_max_results_takes_the_newest_and_requests_no_more_than_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(arxiv, "CAP", 12)
    with Atom(spread(60)) as server:
        found = harvest(server, tmp_path, max_results=7, until="2024-03-31")
    newest = sorted(server.papers, key=lambda p: p.submitted)[-7:]
    assert {p.number for p in newest} <= set(found["id"])
    stored = [path.stem for path in tmp_path.glob("*.parquet")]
    assert min(stored) > "202403", "older windows are not complete"


@pytest.mark.parametrize("request_number", [0, 2])
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
def test_whatever_fails_every_paper_comes_once_or_the_harvest_ends_and_resumes_later(
    tmp_path_factory, faults, count, page, cap
):
    folder = tmp_path_factory.mktemp("law")
    with Atom(spread(count), faults) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(arxiv, "PAGE", page)
        patch.setattr(arxiv, "CAP", cap)
        assert ids(until_complete(server, folder)) == numbers(server)


def until_complete(server, folder):
    for _ in range(5):  # it takes at least three faults to end a harvest
        try:
            return harvest(server, folder)
        except RunError as error:
            said = str(error)
    raise AssertionError(said)


@pytest.mark.parametrize("fault", ["seconds", "date"])
def test_both_forms_of_retry_after_are_respected(tmp_path, fault):
    with Atom(spread(5), {1: fault}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)
    assert server.asked[1] == server.asked[2] and server.early == 0


@pytest.mark.parametrize("fault", ["grow", "shrink"])
def test_a_total_that_changes_between_pages(tmp_path, fault):
    with Atom(spread(25, days=20), {2: fault}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)


@pytest.fixture(scope="module")
def half():
    """The number of requests after which the first windows of 75 papers are stored."""
    with Atom(spread(75)) as server, pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(client, "BACKOFF", 0.01)
        patch.setattr(arxiv, "PAGE", 10)
        patch.setattr(arxiv, "CAP", 30)
        for window in arxiv.read(SETTINGS | {"service": server.address}, Path(folder), Faults()):
            if window.height:
                return len(server.asked)


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("failing", "sent no usable answer in 3 attempts: HTTP 500"),
        ("html", "not a complete document"),
        ("forever", "requests a pause of .* s or more .HTTP 503.*what was harvested is kept"),
        ("repeat", r"arXiv counts \d+ papers from 202.* and sends .*resumes there"),
        ("empty", r"arXiv counts \d+ papers from 202"),
    ],
)
def test_a_service_that_keeps_failing_ends_the_harvest_and_the_next_start_resumes(tmp_path, half, always, said):
    with Atom(spread(75), dict.fromkeys(range(half), ""), always) as server:
        with pytest.raises(RunError, match=said):
            harvest(server, tmp_path)
        server.always = ""
        resume(server, tmp_path)


def resume(server, folder):
    """Harvests the rest, without another request for what is stored."""
    stored, before = {tuple(path.stem.split("-")) for path in folder.glob("*.parquet")}, len(server.asked)
    assert sum(pl.read_parquet(path).height for path in folder.glob("*.parquet")) > 0
    assert ids(harvest(server, folder)) == numbers(server)
    assert not stored & set(windows(server)[before:])


def test_papers_that_arxiv_counts_and_no_window_contains_are_counted(tmp_path):
    faults = Faults()
    with Atom(spread(20), dict.fromkeys((1, 2), "nothing")) as server:  # twice, so that the window is taken for empty
        assert harvest(server, tmp_path, faults).is_empty()
    (entry,) = faults.values()
    assert entry["rows"] == 20 and "arXiv counts 20" in entry["examples"][0]


@pytest.mark.parametrize(
    "stated", ["2024-02-30T00:00:00Z", "9999-12-31T23:59:59-23:00", "2199-01-01T00:00:00Z", "x", ""]
)
@pytest.mark.parametrize("number", [0, 5])
def test_an_impossible_date_is_counted_and_loses_no_other_paper(tmp_path, stated, number):
    papers, faults = spread(25), Faults()
    papers[number].shown = stated
    with Atom(papers) as server:
        assert ids(harvest(server, tmp_path, faults)) == [p.number for p in papers if p is not papers[number]]
        (entry,) = faults.values()
        assert entry["rows"] == 1 and papers[number].number in entry["examples"][0]
        again = Faults()
        harvest(server, tmp_path, again)
        assert again == faults, "stored windows keep what was wrong in them"


@pytest.mark.parametrize("total", ["abc", "", "9" * 5000])
def test_a_count_that_is_not_a_number_ends_the_harvest(tmp_path, total):
    with Atom(spread(25)) as server, pytest.raises(RunError, match="does not state how many papers"):
        server.total = total
        harvest(server, tmp_path)


def test_pages_that_repeat_each_other_end_the_harvest(tmp_path, monkeypatch):
    monkeypatch.setattr(arxiv, "CAP", 10_000)
    with Atom(spread(25, days=20), always="again") as server, pytest.raises(RunError, match="10 different ones"):
        server.total = 9000
        harvest(server, tmp_path)
    assert len(server.asked) < 12


def test_a_search_without_papers_yields_none(tmp_path):
    with Atom([]) as server:
        assert harvest(server, tmp_path).is_empty()


def test_a_refused_query_says_why(tmp_path):
    with Atom([], always="error") as server, pytest.raises(RequestError, match="malformed query"):
        harvest(server, tmp_path, query="ti:(")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"categories": []}, "source arxiv needs categories"),
        ({"categories": ["eess.AS", "eees.AS"]}, "'eees.AS' is not a category or an archive.*Did you mean eess.AS"),
        ({"categories": ["cs.ai"]}, "Did you mean cs.AI"),
        ({"categories": ["cs.AI OR cat:x"]}, "not a category"),
    ],
)
def test_wrong_requests_are_refused_before_the_first_request(changed, said):
    with pytest.raises(RequestError, match=said):
        check(SETTINGS | changed)


def test_all_forms_of_categories_are_valid():
    check(SETTINGS | {"categories": ["hep-th", "math.AG", "cond-mat.mes-hall", "physics.optics", "astro-ph", "cs"]})


def test_an_archive_is_searched_for_all_its_categories(tmp_path):
    with Atom(spread(3)) as server:
        found = harvest(server, tmp_path, categories=["eess", "astro-ph", "cs.CL"])
    assert ids(found) == numbers(server)
    assert "(cat:eess.* OR cat:astro-ph* OR cat:cs.CL)" in server.asked[0]["search_query"]


HARVESTER = """
import sys
from pathlib import Path
from titlesmith.harvest import arxiv, client
from titlesmith.harvest.schema import Faults
arxiv.PAGE, arxiv.CAP, client.BACKOFF = 10, 30, 0.01
settings = {"query": "", "categories": ["eess.AS"], "since": "", "until": "2024-12-31", "max_results": 0}
list(arxiv.read(settings | {"service": sys.argv[1]}, Path(sys.argv[2]), Faults()))
"""


def start(server, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", HARVESTER, server.address, str(folder)], env=dict(os.environ), **options
    )


def test_kill_9_in_the_middle_and_on(tmp_path, half):
    with Atom(spread(75), {half + 1: "hang"}) as server:
        killed = start(server, tmp_path, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while len(server.asked) < half + 2 and time.monotonic() < end:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        server.ended.set()
        assert len(server.asked) == half + 2
        resume(server, tmp_path)


def test_a_full_disk_is_reported_and_keeps_the_windows_before_it(tmp_path):
    papers = spread(75)
    for paper in papers[40:]:
        paper.abstract = os.urandom(40_000).hex()  # a window of these is larger than the disk

    def limit_size():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    with Atom(papers) as server:
        full = start(server, tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=limit_size)
        _, said = full.communicate(timeout=60)
        assert full.returncode == 1 and "File too large" in said
        resume(server, tmp_path)


def test_all_processes_together_send_arxiv_one_request_every_three_seconds(project, monkeypatch):
    monkeypatch.setattr(client, "ARXIV", ("127.0.0.1",))
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for _ in range(2):
        with client.turn("http://127.0.0.1/api"):
            pass
    with client.turn("http://example.org/"):
        pass
    assert len(slept) == 1 and client.DELAY - 1 < slept[0] <= client.DELAY
    assert (project / "runs" / ".arxiv.last").exists(), "other processes see it"
