import csv
import math
from datetime import datetime

import pytest

from servers.atom import Atom
from servers.base import Paper
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.template import TEMPLATES, template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import FetchError, RequestError
from titlesmith.harvest import abstracts, client
from titlesmith.train.loop import Draw, Engine


class Uniform:
    """A model to which all tokens are equally likely, and which answers with what stands in the prompt."""

    document_losses, loss, logits = Engine.document_losses, Engine.loss, Engine.logits
    context = 256

    def __init__(self, corpus):
        self.tokenizer = corpus.tokenizer

    def losses(self, ids, learned):
        return learned.sum(axis=1) * math.log(len(self.tokenizer))

    def generate(self, prompts, settings):
        assert len(prompts[0]) + settings["max_tokens"] <= self.context
        return [[Draw(ids[1:9], -float(i), True) for i in range(settings["count"], 0, -1)] for ids in prompts]


class Texts:
    """What `abstracts` reads of a corpus."""

    tokenizer = Tokenizer.learn(["an abstract on speech"] * 3, 300)

    def __init__(self, name="abstract-to-title"):
        self.template = TEMPLATES[name]
        self.layout = TokenLayout(self.tokenizer, "ids", bool(self.template.prompt))


class Recorded:
    """A run's records."""

    def __init__(self, lowercase=False):
        self.settings = {"lowercase": lowercase, "temperature": 0.5}

    def record(self, stage):
        return {"settings": self.settings}


def drawn(path="book/three-abstracts.csv", corpus=None, **run):
    corpus = corpus or Texts()
    return abstracts.titles(Recorded(**run), Uniform(corpus), corpus, {"path": path, "seed": 1})


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


def test_titles_for_abstracts_likeliest_first(project):
    (project / abstracts.FILE).write_text(f"title,abstract\nOne,An abstract\nTwo,{'long ' * 300}\n", "utf-8-sig")
    one, two = drawn()
    assert one["title"] == "One" and len(one["titles"]) == abstracts.COUNT
    assert two["titles"] == [] and "model reads 256" in two["why"]
    assert drawn(corpus=Texts("title")) == drawn("nowhere.csv") == []


def test_lower_case_where_the_corpus_is(project, monkeypatch):
    (project / abstracts.FILE).write_text("title,abstract\nOne,LOUD Speech\n", "utf-8")
    asked = []
    generate = Uniform.generate
    monkeypatch.setattr(
        Uniform, "generate", lambda s, prompts, given: asked.append(prompts) or generate(s, prompts, given)
    )
    drawn(lowercase=True)
    assert "loud speech" in Texts.tokenizer.decode(asked[0][0])


@pytest.mark.parametrize("content", [b"name,text\na,b\n", b"title,abstract\n\xff,b\n", b"title,abstract\nonly\n"])
def test_a_file_that_is_none_is_refused(project, content):
    (project / abstracts.FILE).write_bytes(content)
    with pytest.raises(RequestError, match=r"evaluate\.path"):
        drawn()


def test_the_page_shows_runs_and_slots():
    class Shown:
        def __init__(self, name, found):
            self.name, self.metrics = name, found

        def record(self, stage):
            return {"settings": {"template": "title" if self.name == "other" else "abstract-to-title"}}

    done = Shown(
        "done", {"three_abstracts": [{"title": "<One>", "titles": ["$x$"]}, {"title": "2", "titles": [], "why": "no"}]}
    )
    page = abstracts.page([done, Shown("waiting", {}), Shown("other", {})])
    assert "## done" in page and "&lt;One&gt;" in page and "mathjax_ignore" in page
    assert "## waiting\n\nThis run" in page and "other" not in page
    assert "No run" in abstracts.page([Shown("other", {})])


def test_the_template_that_it_is_for():
    assert abstracts.takes(template("abstract-to-title")) and not abstracts.takes(template("title-to-abstract"))
    assert abstracts.takes(template("{abstract} -> Title: {title}"))
