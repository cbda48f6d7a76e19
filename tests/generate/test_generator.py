import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.generate import generator as texts
from titlesmith.generate.generator import Request
from titlesmith.runs.record import Run
from titlesmith.train.loop import Draw

TOKENIZER = Tokenizer.learn(["Neural speech", "Neural networks of speech"] * 3, 290)


class Small(Corpus):
    """A corpus in memory: ``training`` by people, ``test`` prompts."""

    def __init__(self, training=("Some training text",), delimiters="ids", name="title", test=()):
        self.tokenizer, self.template, self.lowercase = TOKENIZER, template(name), False
        self.layout, self.info = TokenLayout(TOKENIZER, delimiters, self.has_prompt), {"context": 100}
        numbers = [str(i) for i in range(max(len(training), len(test)))]
        self.tables = {
            "train": pl.LazyFrame({"id": numbers[: len(training)], "completion": training}),
            "test": pl.LazyFrame({"id": numbers[: len(test)], "prompt": test}),
        }

    def scan(self, name):
        return self.tables[name]


class Scripted:
    """An engine that answers with given texts, ~ for one that does not end, and expects every token alike."""

    context = 100

    def __init__(self, *answers: str):
        self.answers, self.asked = list(answers), []

    def generate(self, prompts, settings):
        self.asked.append(tuple(settings["seed"]))
        answers = [[self.answers.pop(0) for _ in range(settings["count"])] for _ in prompts]
        return [[Draw(TOKENIZER.encode(a.strip("~")), -1.0, not a.endswith("~")) for a in some] for some in answers]

    def next(self, prompts):
        return np.full((len(prompts), len(TOKENIZER)), -np.log(len(TOKENIZER)), np.float32)


def drawn(engine, count, prefix="", corpus=None, **settings):
    settings = {"count": count, "seed": 1, "max_tokens": 24} | settings
    return list(texts.draw(engine, corpus or Small(), [Request("", prefix)], settings))


@pytest.mark.parametrize("text", ["a|>", "<|a", "x endoftext", "startoftext", "bro\ufffdken", "two\nlines", "be\x07ll"])
def test_artifacts_are_found(text):
    assert not texts.is_clean(text)
    assert texts.is_clean("A > B: <x> $y$ |z|")


def test_what_a_prefix_has_is_no_artifact_but_what_follows_it_is():
    assert texts.is_clean("<|endoftext|> speech", "<|endoftext|>")
    assert not texts.is_clean("<|endoftext|> speech|>", "<|endoftext|>")
    assert not texts.is_clean("<| speech", "<"), "half of it is of the prefix"


def test_unfinished_texts_and_artifacts_are_drawn_again_with_another_seed():
    engine = Scripted("good one", "unfinished~", "stray |>", "good two", "bad\n", "good three")
    rows = drawn(engine, 3)
    assert [row["text"] for row in rows] == ["good one", "good two", "good three"]
    assert len(set(engine.asked)) == len(engine.asked) == 3
    assert list(rows[0]) == [
        "prefix", "prompt", "text", "tokens", "logprob", "finished", "nearest_id", "nearest", "nearest_similarity",
        "paper",
    ]  # fmt: skip


def test_a_marker_of_the_end_that_is_text_ends_a_text():
    (row,) = drawn(Scripted(" good<|endoftext|> and~"), 1, corpus=Small(delimiters="text"))
    assert (row["text"], row["finished"]) == (" good", True)


@pytest.mark.parametrize("answer, text", [("never ends~", "never ends"), ("stray |>", "stray |>"), ("", "")])
def test_what_cannot_be_used_is_marked(answer, text):
    rows = drawn(Scripted(*[answer] * texts.ROUNDS), 1)
    assert [(row["text"], row["finished"]) for row in rows] == [(text, False)]


def test_unique_leaves_out_repeats_and_copies_and_draws_again():
    engine = Scripted("a text", "A  Text", "some training TEXT", "another", "a text", "third")
    rows = drawn(engine, 3, unique=True)
    assert [row["text"] for row in rows] == ["a text", "another", "third"]


def test_where_nothing_new_is_found_fewer_come_out_and_a_sentence_says_so():
    engine = Scripted(*["a text"] * 40)
    rows = drawn(engine, 3, unique=True)
    assert [row["text"] for row in rows] == ["a text"]
    assert len(engine.asked) == texts.ROUNDS + 1, "a round that found nothing new ends it"
    (sentence,) = texts.lacking(
        [Request("", "Neur"), Request("", "")], [*rows, *[{"prompt": "", "prefix": "Neur"}] * 3], 3
    )
    assert sentence.startswith("'': 1 of 3 texts")


def test_the_best_of_many_are_kept_without_copies():
    class Judging(Scripted):
        def generate(self, prompts, settings):
            found = super().generate(prompts, settings)
            return [[Draw(d.ids, -float(len(TOKENIZER.decode(d.ids))), d.finished) for d in draws] for draws in found]

    engine = Judging("the worst of all", "good", "good", "better~", "Some training text", "middling")
    rows = drawn(engine, 2, best_of=3)
    assert [(row["text"], row["logprob"]) for row in rows] == [("good", -4.0), ("middling", -8.0)]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_begins_with_its_prefix_to_the_letter(prefix):
    (row,) = drawn(Scripted(*[" ends"] * texts.ROUNDS), 1, prefix)
    assert row["prefix"] == texts.plain(prefix) and len(row["prefix"]) == len(prefix)
    assert row["text"].startswith(row["prefix"]) and row["text"].endswith(" ends")
    assert row["finished"] or "\ufffd" in row["text"]


def test_what_is_not_allowed_is_refused_before_anything_is_drawn():
    engine = Scripted()
    for match, request, settings in [
        (
            r"24 tokens behind 'word .*'\.\.\., which takes \d+, .* context of 100: lower max_tokens to \d+, or",
            "word " * 28,
            {},
        ),
        (r"the prefix 'word .*'\.\.\. is too long: .* \d+ tokens, and the model reads 100. Shorten", "word " * 100, {}),
        (r"max_tokens: 500 tokens exceed the model's context of 100: lower max_tokens to 99$", "", {"max_tokens": 500}),
        ("not valid UTF-8", "bad \udcff", {}),
        ("5 texts of 4 beams", "", {"count": 5, "beams": 4}),
        ("best_of", "", {"count": 1, "beams": 4, "best_of": 2}),
        ("min_tokens: 30 is more than 24, max_tokens: lower", "", {"min_tokens": 30}),
    ]:
        with pytest.raises(RequestError, match=match):
            texts.draw(engine, Small(), [Request("", request)], {"count": 1, "seed": 1, "max_tokens": 24} | settings)
    with pytest.raises(RequestError, match="takes no prompt"):
        texts.draw(engine, Small(), [Request("A title")], {"count": 1, "seed": 1, "max_tokens": 24})


SETTINGS = {"prefixes": ["", "Neur"], "prompts": [], "held_out": 0, "count": 4, "seed": 1, "temperature": 1.0}
SETTINGS |= {"top_k": 0, "top_p": 1.0, "max_tokens": 8, "beams": 1, "best_of": 1, "min_tokens": 0, "unique": True}


@pytest.fixture
def begun(finished, tmp_path, monkeypatch):
    """A copy of the finished run, at the start of its generate stage."""
    shutil.copytree(finished.path, tmp_path / "runs" / finished.name)
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    for name in ("notebooks", "experiments"):
        shutil.copytree(finished.path.parents[1] / name, tmp_path / name)
    run = Run(finished.name)
    run.clear("generate")
    run.begin("generate", SETTINGS)
    return run


def test_requests_share_batches_and_texts_depend_on_seed_and_request_alone(finished):
    engine, corpus = engines.load_engine(finished), Corpus(finished)
    calls, generate = [], engine.generate
    engine.generate = lambda prompts, s: calls.append(len(prompts)) or generate(prompts, s)
    settings = SETTINGS | {"unique": False}
    both = list(texts.draw(engine, corpus, [Request("", "Neural"), Request("", "x")], settings))
    assert calls[0] == 8, "one batch"
    (alone,) = [list(texts.draw(engine, corpus, [Request("", "Neural")], settings))]
    assert [row["text"] for row in alone] == [row["text"] for row in both[:4]]
    assert [row["text"] for row in alone] != [
        row["text"] for row in texts.draw(engine, corpus, [Request("", "Neural")], settings | {"seed": 2})
    ]
    rows = list(texts.draw(engine, corpus, [Request("", "Neural")], settings | {"beams": 4, "count": 2}))
    assert len(rows) == 2 and rows[0]["text"] != rows[1]["text"]


KILLED = """
import os, signal
from titlesmith import train as engines
from titlesmith.generate import generator as texts
from titlesmith.corpus import Corpus
from titlesmith.runs.record import Run

texts.BLOCK, block = 2, texts.Drawing.block
def stopping(self, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return block(self, number)

texts.Drawing.block = stopping
texts.generate(Run("small"), engines.load_engine(Run("small")), Corpus(Run("small")), {settings})
"""


def test_a_generation_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(begun, monkeypatch):
    monkeypatch.setattr(texts, "BLOCK", 2)
    engine, corpus, path = engines.load_engine(begun), Corpus(begun), begun / "texts.jsonl"
    whole = texts.generate(begun, engine, corpus, SETTINGS)
    lines = path.read_text("utf-8")
    assert [json.loads(line) for line in lines.splitlines()] == whole == begun.texts
    assert Counter(row["prefix"] for row in whole) == {"": 4, "Neur": 4}
    begun.clear("generate")
    begun.begin("generate", SETTINGS)
    killed = subprocess.run([sys.executable, "-c", KILLED.replace("{settings}", repr(SETTINGS))], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text("utf-8") == "".join(lines.splitlines(True)[:6]), "nothing that was drawn is lost"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prefix": "Neu')  # as a kill while it writes leaves it
    numbers, block = [], texts.Drawing.block
    monkeypatch.setattr(texts.Drawing, "block", lambda self, number: numbers.append(number) or block(self, number))
    assert texts.generate(begun, engine, corpus, SETTINGS) == whole
    assert (path.read_text("utf-8"), numbers) == (lines, [3])


def test_columns_that_say_nothing_are_left_out():
    rows = drawn(Scripted("one", "two"), 2)
    assert list(texts.columns(rows)) == ["prefix", "text", "logprob", "nearest", "nearest_similarity"]
    rows[0] |= {"finished": False, "prompt": "A title"}
    assert {"finished", "prompt"} <= set(texts.columns(rows))


def test_the_example_in_the_book_runs(finished, capsys):
    page = (ROOT / "book" / "generate.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code.replace("sample-titles", "small").replace('"count": 5', '"count": 2, "max_tokens": 8'), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Neural: none of") and " Neural" in said[2]
