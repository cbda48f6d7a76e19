import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oaipmh_scythe import Scythe

from servers.base import Paper, spread
from servers.oai import Oai
from titlesmith.errors import RequestError, RunError
from titlesmith.harvest import SCHEMA, check, client, oai
from titlesmith.harvest.categories import oai_set
from titlesmith.harvest.schema import Faults

SETTINGS = {"source": "oai", "query": "", "categories": ["eess.AS"], "since": "", "until": ""}


FAULTS = ["failing", "reset", "cut", "html", "moved", "empty", "repeat", "expire"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 3)
    monkeypatch.setattr(client, "TIMEOUT", (1, 0.4))


def harvest(server, folder, faults=None, **changed):
    faults = Faults() if faults is None else faults
    pages = list(oai.read(SETTINGS | {"service": server.address} | changed, folder, faults))
    return pl.concat(pages).unique("id", keep="last", maintain_order=True)


def ids(papers):
    return sorted(papers["id"].to_list())


def numbers(server):
    return sorted(p.number for p in server.papers if not p.deleted)


def test_the_server_speaks_the_protocol():
    with Oai(spread(3)) as server, Scythe(server.address) as client:
        assert client.identify().earliestDatestamp == "2005-09-16"
        listed = list(client.list_records(metadata_prefix="arXivRaw", set_="eess:eess:AS"))
    assert [r.header.identifier for r in listed] == [f"oai:arXiv.org:{p.number}" for p in server.papers]


def test_a_paper_with_all_its_fields(tmp_path):
    with Oai([Paper("2402.00001", datetime(2024, 2, 29, 23, 59, 30), versions=3, stamp="2024-06-01")]) as server:
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
            "updated": date(2024, 4, 29),
            "doi": None,
            "journal_ref": None,
            "comments": "4 pages",
            "submitter": "Ada Byron",
            "license": "http://arxiv.org/licenses/nonexclusive-distrib/1.0/",
            "report_no": None,
            "versions": [date(2024, 2, 29), date(2024, 3, 30), date(2024, 4, 29)],
        }
    ]


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("eess.AS", "eess:eess:AS"),
        ("math.AG", "math:math:AG"),
        ("q-bio.QM", "q-bio:q-bio:QM"),
        ("hep-th", "physics:hep-th"),
        ("astro-ph.GA", "physics:astro-ph:GA"),
        ("cond-mat.mes-hall", "physics:cond-mat:mes-hall"),
        ("physics.optics", "physics:physics:optics"),
        ("cs", "cs:cs"),
        ("astro-ph", "physics:astro-ph"),
    ],
)
def test_the_set_of_a_category(category, name):
    assert oai_set(category) == name


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("Ada Byron and Émile Borel", ["Ada Byron", "Émile Borel"]),
        ("A. B. Sand (MIT (US), Inria), C. Anders,\n  and D. E", ["A. B. Sand", "C. Anders", "D. E"]),
    ],
)
def test_authors(line, names):
    assert oai.authors(line) == names


def test_lists_of_several_categories_and_from_a_day(tmp_path):
    papers = spread(30)
    papers[5].categories = "cs.SD"
    with Oai(papers) as server:
        found = harvest(server, tmp_path, categories=["eess.AS", "cs.SD"], since="2024-01-10")
    assert ids(found) == [p.number for p in papers if p.stamp >= "2024-01-10"]
    assert papers[5].number in found["id"]


def test_a_whole_archive(tmp_path):
    papers = spread(12)
    papers[5].categories = "cs.CL eess.AS"
    papers[6].categories = "eess.AS"
    with Oai(papers) as server:
        found = harvest(server, tmp_path, categories=["cs"])
    assert {q["set"] for q in server.asked if "set" in q} == {"cs:cs"}
    assert ids(found) == [p.number for n, p in enumerate(papers) if n != 6]


def test_deleted_records_are_no_papers_and_broken_ones_are_counted(tmp_path):
    papers, faults = spread(12), Faults()
    papers[3].deleted = True
    papers[4].abstract = ""
    with Oai(papers) as server:
        found = harvest(server, tmp_path, faults)
    assert ids(found) == [p.number for n, p in enumerate(papers) if n not in (3, 4)]
    (entry,) = faults.values()
    assert entry["rows"] == 1 and papers[4].number in entry["examples"][0]


def test_characters_that_xml_forbids_are_dropped(tmp_path):
    papers = spread(12)
    papers[3].abstract = "It is \x0bloud"
    with Oai(papers) as server:
        found = harvest(server, tmp_path)
    assert ids(found) == numbers(server) and "It is loud" in found["abstract"]


def test_no_records_are_no_papers(tmp_path):
    with Oai([]) as server:
        assert not list(oai.read(SETTINGS | {"service": server.address}, tmp_path, Faults()))


@pytest.mark.parametrize("request_number", [0, 5])
@pytest.mark.parametrize(
    "fault", ["failing", "hang", "reset", "cut", "html", "moved", "empty", "mangle", "repeat", "revise"]
)
def test_every_paper_once_after_a_fault(tmp_path, fault, request_number):
    with Oai(spread(55), {request_number: fault}) as server:
        found = harvest(server, tmp_path)
    assert ids(found) == numbers(server)
    if fault not in ("repeat", "revise"):
        assert len(server.asked) == 7


@given(
    faults=st.dictionaries(st.integers(0, 25), st.sampled_from(FAULTS), max_size=12),
    count=st.integers(1, 90),
    days=st.integers(1, 90),
    size=st.integers(1, 12),
)
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
def test_whatever_fails_every_paper_comes_once_or_the_harvest_ends_and_resumes_later(
    tmp_path_factory, faults, count, days, size
):
    folder = tmp_path_factory.mktemp("law")
    with Oai(spread(count, days=days), faults) as server:
        server.size = size
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
    with Oai(spread(25), {1: fault}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)
    assert server.asked[1] == server.asked[2] and server.early == 0


def test_an_expired_token_resumes_from_the_day_reached(tmp_path):
    with Oai(spread(55), {3: "expire"}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)
    assert "from" in server.asked[4] and len(server.asked) == 8


@pytest.mark.parametrize("stated", ["2999-01-01", "yesterday", "2024-13-45", "", f"{datetime.now():%Y-%m-%d}"])
@pytest.mark.parametrize("number", [4, 19])  # within a page, and the last of one
def test_a_wrong_day_of_change_and_an_expired_token_lose_no_paper(tmp_path, stated, number):
    papers = spread(55)
    papers[number].shown = stated
    with Oai(papers, {2: "expire"}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)


@pytest.mark.parametrize("request_number", [0, 4])  # the first one, and the one after the list is requested again
def test_no_records_where_there_are_some_is_not_believed(tmp_path, request_number):
    with Oai(spread(55), {3: "expire", request_number: "nothing"}) as server:
        assert ids(harvest(server, tmp_path)) == numbers(server)


def test_no_records_is_believed_when_it_is_said_twice(tmp_path):
    with Oai(spread(5), always="nothing") as server:
        assert not list(oai.read(SETTINGS | {"service": server.address}, tmp_path, Faults()))
    assert len(server.asked) == 2


@pytest.mark.parametrize("first", [0, 3])
def test_a_page_that_repeats_ends_the_harvest_and_the_next_start_resumes(tmp_path, first):
    with Oai(spread(55), dict.fromkeys(range(first), ""), "stay") as server:
        with pytest.raises(RunError, match="repeats the page of token"):
            harvest(server, tmp_path)
        assert len(server.asked) < 30
        server.always = "expire"
        server.faults = {n: "" for n in range(99) if n > len(server.asked)}
        assert ids(harvest(server, tmp_path)) == numbers(server)


def test_records_without_an_identifier_a_header_or_a_date_are_counted(tmp_path):
    papers, faults = spread(12), Faults()
    papers[3].number = ""
    papers[5].versions = 0
    with Oai(papers) as server:
        answer = server.answer
        server.answer = lambda *query: re.sub(
            rb"<header>((?!</header>).)*00007.*?</header>", b"", answer(*query), flags=re.S
        )
        harvest(server, tmp_path, faults)
    (entry,) = faults.values()
    assert entry["rows"] == 3 and "no identifier" in entry["examples"][0]


def test_the_day_of_the_request_is_the_earlier_one_of_two_clocks(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "today", lambda: date(2199, 1, 1))
    with Oai(spread(5)) as server:
        harvest(server, tmp_path)
    assert json.loads((tmp_path / "state.json").read_text()) == {"requested": f"{datetime.now(UTC):%Y-%m-%d}"}


def test_tokens_that_are_always_refused_end_the_harvest(tmp_path):
    with Oai(spread(55), always="expire") as server, pytest.raises(RunError, match="refuses its tokens"):
        harvest(server, tmp_path)
    assert len(server.asked) < 50


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("failing", "sent no usable answer in 3 attempts: HTTP 500"),
        ("empty", "sends a page without records, 4 times"),
    ],
)
def test_a_service_that_keeps_failing_ends_the_harvest_and_the_next_start_resumes(tmp_path, always, said):
    with Oai(spread(55), dict.fromkeys(range(3), ""), always) as server:
        with pytest.raises(RunError, match=said):
            harvest(server, tmp_path)
        server.always, before = "", len(server.asked)
        assert ids(harvest(server, tmp_path)) == numbers(server)
        assert len(server.asked) == before + 3, "three of six pages were stored"
        assert ids(harvest(server, tmp_path)) == numbers(server)
        assert len(server.asked) == before + 3, "all are stored"


def test_a_refused_request_says_why(tmp_path):
    with Oai([]) as server, pytest.raises(RequestError, match="badArgument: Set does not exist"):
        harvest(server, tmp_path, categories=["math.AG"])


@pytest.mark.parametrize(
    ("changed", "said"), [({"query": "ti:x"}, "use source arxiv"), ({"categories": ["eess.XYZ"]}, "not a category")]
)
def test_wrong_requests_are_refused_before_the_first_request(changed, said):
    with pytest.raises(RequestError, match=said):
        check(SETTINGS | changed)


HARVESTER = """
import sys
from pathlib import Path
from titlesmith.harvest import oai
from titlesmith.harvest.schema import Faults
settings = {"query": "", "categories": ["eess.AS"], "since": "", "service": sys.argv[1]}
list(oai.read(settings, Path(sys.argv[2]), Faults()))
"""


def start(server, folder, **options):
    return subprocess.Popen(
        [sys.executable, "-c", HARVESTER, server.address, str(folder)], env=dict(os.environ), **options
    )


def test_kill_9_in_the_middle_and_on_with_the_next_page(tmp_path):
    with Oai(spread(55), {3: "hang"}) as server:
        killed = start(server, tmp_path, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while len(server.asked) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        server.ended.set()
        assert ids(harvest(server, tmp_path)) == numbers(server)
        assert server.asked[4] == server.asked[3] and len(server.asked) == 7


def test_a_full_disk_says_so_and_keeps_the_pages_before_it(tmp_path):
    papers = spread(55)
    for paper in papers[40:]:
        paper.abstract = os.urandom(40_000).hex()

    def little():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    with Oai(papers) as server:
        full = start(server, tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=little)
        _, said = full.communicate(timeout=60)
        assert full.returncode == 1 and "File too large" in said
        assert len(list(tmp_path.glob("*.parquet"))) == 4
        assert ids(harvest(server, tmp_path)) == numbers(server)
