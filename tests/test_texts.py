import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith import engines, texts
from titlesmith.corpus import Corpus
from titlesmith.corpus.tokens import Layout, Tokenizer
from titlesmith.engines.base import Draw
from titlesmith.run import Run

SETTINGS = {"prefixes": ["", "Neural"], "count": 4, "seed": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
SETTINGS |= {"max_tokens": 24}


@pytest.mark.parametrize("text", ["a|>", "<|a", "x endoftext", "startoftext", "bro\ufffdken", "two\nlines", "be\x07ll"])
def test_artifacts_are_found(text):
    assert not texts.is_clean(text)
    assert texts.is_clean("A > B: <x> $y$ |z|")


class Scripted:
    """An engine that answers with given ids, however often it is asked."""

    tokenizer = Tokenizer.learn(["Neural speech"] * 3, 270)

    def __init__(self, *answers: str):
        self.answers, self.asked = list(answers), []

    def generate(self, prompts, settings):
        self.asked.append(tuple(settings["seed"]))
        answers = [self.answers.pop(0) for _ in range(settings["count"])]
        return [[Draw(self.tokenizer.encode(a.strip("~")), -1.0, not a.endswith("~")) for a in answers]]


def drawn(engine, count, prefix="", delimiters="ids"):
    corpus = type("C", (), {"layout": Layout(engine.tokenizer, delimiters, False)})
    return texts._draw(engine, corpus, prefix, SETTINGS | {"count": count, "seed": [1]})


def test_unfinished_texts_and_artifacts_are_drawn_again_with_another_seed():
    engine = Scripted("good one", "unfinished~", "stray |>", "good two", "bad\n", "good three")
    rows = drawn(engine, 3)
    assert [row["text"] for row in rows] == ["good one", "good two", "good three"]
    assert len(set(engine.asked)) == len(engine.asked) == 3


def test_a_marker_of_the_end_that_is_text_ends_a_text():
    (row,) = drawn(Scripted(" good<|endoftext|>"), 1, "So", "text")
    assert (row["text"], row["finished"]) == ("So good", True)


def test_what_stays_unfinished_is_marked():
    rows = drawn(Scripted(*["never ends~"] * texts.ROUNDS), 1)
    assert [(row["text"], row["finished"]) for row in rows] == [("never ends", False)]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_begins_with_its_prefix(prefix):
    (row,) = drawn(Scripted(*[" ends"] * texts.ROUNDS), 1, prefix)
    assert row["text"] == prefix + " ends"


def test_an_interrupted_generation_goes_on_and_ends_as_if_it_had_not_been(finished, monkeypatch):
    engine, corpus = engines.load(finished), Corpus(finished)
    monkeypatch.setattr(Run, "finish", lambda *args, **facts: None)
    path = finished / "texts.jsonl"
    before = path.read_bytes()
    try:
        path.unlink()
        whole = texts.generate(finished, engine, corpus, SETTINGS)
        lines = path.read_text("utf-8")
        assert [json.loads(line) for line in lines.splitlines()] == whole
        assert [row["prefix"] for row in whole] == [""] * 4 + ["Neural"] * 4
        assert list(whole[0]) == [
            "prefix", "prompt", "text", "tokens", "logprob", "finished", "nearest_id", "nearest", "nearest_similarity",
        ]  # fmt: skip
        path.write_text("".join(lines.splitlines(True)[:6]) + '{"prefix": "Neu', "utf-8")  # as a kill leaves it
        asked, draw = [], engine.generate
        monkeypatch.setattr(engine, "generate", lambda prompts, s: asked.append(prompts) or draw(prompts, s))
        assert texts.generate(finished, engine, corpus, SETTINGS) == whole
        assert path.read_text("utf-8") == lines
        neural = [engine.tokenizer.prompt("Neural", False)]
        assert asked and all(prompts == neural for prompts in asked), "the first prefix was whole"
    finally:
        path.write_bytes(before)
