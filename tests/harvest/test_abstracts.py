import csv
from datetime import datetime

import pytest

from servers.atom import Atom
from servers.base import Paper
from titlesmith.corpus.template import template
from titlesmith.errors import FetchError, RequestError
from titlesmith.harvest import abstracts, client

PAPERS = [
    Paper("2301.00001", datetime(2023, 1, 1), title=next(iter(abstracts.PAPERS)), abstract="Waste is\n a problem."),
    Paper("1707.01083", datetime(2017, 7, 4), title=list(abstracts.PAPERS)[1].upper()),
    Paper("2304.02643", datetime(2023, 4, 5), title="Segment Anything", versions=2),
    Paper("2304.00000", datetime(2023, 4, 5), title="Segment something else"),
]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    monkeypatch.setattr(client, "ATTEMPTS", 2)


def test_the_three_abstracts_are_fetched_and_read(project, quick):
    with Atom(PAPERS) as server:
        path = abstracts.fetch(server.address)
    assert len(server.asked) == 3
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["title", "abstract"]
    rows = abstracts.read(path)
    assert [title for title, _ in rows] == list(abstracts.PAPERS)
    assert rows[0][1] == "Waste is a problem." and rows[1][1] == "We study sound & <math>. It is loud."


def test_another_paper_under_the_number_is_refused(project, quick):
    other = Paper("2304.02643", datetime(2023, 4, 5), title="Segment nothing")
    refused = pytest.raises(FetchError, match=r"no paper 'Segment Anything'.*three-abstracts\.csv")
    with Atom([*PAPERS[:2], other]) as server, refused:
        abstracts.fetch(server.address)
    assert not (project / abstracts.FILE).exists()


def test_a_service_that_is_down_is_told(project, quick):
    with Atom(PAPERS, always="failing") as server, pytest.raises(FetchError, match="cannot be asked"):
        abstracts.fetch(server.address)


@pytest.mark.parametrize("content", [b"name,text\na,b\n", b"title,abstract\n\xff,b\n", b"title,abstract\nonly\n"])
def test_a_file_that_is_none_is_refused(project, content):
    (project / abstracts.FILE).write_bytes(content)
    with pytest.raises(RequestError, match=r"evaluate\.path"):
        abstracts.read(project / abstracts.FILE)


def test_the_template_that_it_is_for():
    assert abstracts.takes(template("abstract-to-title")) and not abstracts.takes(template("title-to-abstract"))
    assert abstracts.takes(template("{abstract} -> Title: {title}"))
