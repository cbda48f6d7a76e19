"""The three abstracts: their download, and the titles that a run's model generates for them."""

import csv
from datetime import datetime

import pytest

from servers.atom import Atom
from servers.base import Paper
from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import FetchError, RequestError, TitlesmithError
from titlesmith.evaluate import abstracts
from titlesmith.generate import Completion
from titlesmith.harvest import client

FILE = "book/three-abstracts.csv"


class Echo:
    """A back end that answers with ids of the prompt, the least likely completion first."""

    context = 256

    def __init__(self):
        self.prompts = []

    def generate(self, prompts, settings):
        assert len(prompts[0]) + settings.max_tokens <= self.context
        self.prompts += prompts
        return [[Completion(ids[i : i + 8], -float(i), True) for i in range(settings.count, 0, -1)] for ids in prompts]


class Recorded:
    """A run's records."""

    def record(self, stage):
        return {"settings": {"temperature": 0.5, "best_of": 3, "min_tokens": 50}}


TOKENIZER = Tokenizer.learn(["an abstract on speech"] * 3, 300)


@pytest.fixture
def backend(monkeypatch):
    backend = Echo()
    monkeypatch.setattr(abstracts, "open_backend", lambda run: backend)
    return backend


def titles(path=FILE, name="abstract-to-title", **settings):
    corpus = DocumentFormat(template(name), TOKENIZER, **settings)
    return abstracts.titles(Recorded(), corpus, {"path": path, "seed": 1})


def test_titles_for_abstracts_come_likeliest_first(project, backend):
    (project / FILE).write_text(f"title,abstract\nOne,An abstract\nTwo,{'long ' * 300}\n", "utf-8-sig")
    one, two = titles()
    assert one == {"title": "One", "titles": [TOKENIZER.decode(backend.prompts[0][i : i + 8]) for i in (1, 2, 3)]}
    assert two["titles"] == [] and "context is 256" in two["why"]
    assert titles(name="title") == titles("nowhere.csv") == []


def test_abstracts_are_in_lower_case_where_the_corpus_is(project, backend):
    (project / FILE).write_text("title,abstract\nOne,LOUD Speech\n", "utf-8")
    titles(lowercase=True)
    assert "loud speech" in TOKENIZER.decode(backend.prompts[0])


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
    rows = abstracts.read(path, "title", "abstract")
    assert [title for title, _ in rows] == list(abstracts.PAPERS)
    assert rows[0][1] == "Waste is a problem." and rows[1][1] == "We study sound & <math>. It is loud."


def test_another_paper_with_the_number_is_refused(project, quick):
    other = Paper("2304.02643", datetime(2023, 4, 5), title="Segment nothing")
    refused = pytest.raises(FetchError, match=r"returned no paper 'Segment Anything'.*three-abstracts\.csv")
    with Atom([*PAPERS[:2], other]) as server, refused:
        abstracts.fetch(server.address)
    assert not (project / abstracts.FILE).exists()


def test_the_abstracts_of_a_files_papers_are_fetched_by_their_ids(project, quick):
    file = project / "papers.csv"
    file.write_text("title,arxiv_id\nAs it was called,1707.01083\nNot on arXiv,\n", "utf-8")
    with Atom(PAPERS) as server:
        rows = abstracts.read(abstracts.fetch_of(file, server.address), "title", "abstract")
        assert rows == [("As it was called", "We study sound & <math>. It is loud.")] and len(server.asked) == 1
        file.write_text("title,arxiv_id\nNone,9999.00001\n", "utf-8")
        with pytest.raises(FetchError, match=r"no abstract of 9999\.00001"):
            abstracts.fetch_of(file, server.address)
    file.write_text("name\nx\n", "utf-8")
    with pytest.raises(RequestError, match="with columns title, arxiv_id"):
        abstracts.fetch_of(file)


def test_a_failing_service_is_reported(project, quick):
    with Atom(PAPERS, always="failing") as server, pytest.raises(TitlesmithError):
        abstracts.fetch(server.address)


@pytest.mark.parametrize("content", [b"name,text\na,b\n", b"title,abstract\n\xff,b\n", b"title,abstract\nonly\n"])
def test_another_file_is_refused(project, content):
    (project / abstracts.FILE).write_bytes(content)
    with pytest.raises(RequestError, match=r"three-abstracts\.csv is not a CSV file in UTF-8 with columns"):
        abstracts.read(project / abstracts.FILE, "title", "abstract")


def test_only_templates_from_abstract_to_title_make_titles():
    assert abstracts.makes_titles(template("abstract-to-title"))
    assert abstracts.makes_titles(template("{abstract} -> Title: {title}"))
    assert not abstracts.makes_titles(template("title-to-abstract"))
