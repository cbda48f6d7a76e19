"""Titles that a run's model writes for a file of abstracts."""

import pytest

from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.template import TEMPLATES
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.evaluate import abstracts
from titlesmith.generate import Completion

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


class Texts:
    """What `abstracts.titles` reads of a corpus."""

    tokenizer = Tokenizer.learn(["an abstract on speech"] * 3, 300)

    def __init__(self, name="abstract-to-title"):
        self.template = TEMPLATES[name]
        self.layout = TokenLayout(self.tokenizer, "ids", bool(self.template.prompt))


class Recorded:
    """A run's records."""

    def __init__(self, lowercase=False):
        self.settings = {"lowercase": lowercase, "temperature": 0.5, "best_of": 3, "min_tokens": 50}

    def record(self, stage):
        return {"settings": self.settings}


@pytest.fixture
def backend(monkeypatch):
    backend = Echo()
    monkeypatch.setattr(abstracts, "open_backend", lambda run: backend)
    return backend


def titles(path=FILE, corpus=None, **run):
    return abstracts.titles(Recorded(**run), corpus or Texts(), {"path": path, "seed": 1})


def test_titles_for_abstracts_come_likeliest_first(project, backend):
    (project / FILE).write_text(f"title,abstract\nOne,An abstract\nTwo,{'long ' * 300}\n", "utf-8-sig")
    one, two = titles()
    decode = Texts.tokenizer.decode
    assert one == {"title": "One", "titles": [decode(backend.prompts[0][i : i + 8]) for i in (1, 2, 3)]}
    assert two["titles"] == [] and "context is 256" in two["why"]
    assert titles(corpus=Texts("title")) == titles("nowhere.csv") == []


def test_abstracts_are_in_lower_case_where_the_corpus_is(project, backend):
    (project / FILE).write_text("title,abstract\nOne,LOUD Speech\n", "utf-8")
    titles(lowercase=True)
    assert "loud speech" in Texts.tokenizer.decode(backend.prompts[0])
