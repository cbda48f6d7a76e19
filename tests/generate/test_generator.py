import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith import models
from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.generate import (
    Completion,
    GenerationSettings,
    Nearest,
    Request,
    TextGenerator,
    generator,
    is_clean,
    open_backend,
    texts,
)
from titlesmith.generate.generator import TokenHealing
from titlesmith.generate.huggingface import TransformersBackend
from titlesmith.generate.prompts import plain
from titlesmith.models.weights import read
from titlesmith.runs import Run

TOKENIZER = Tokenizer.learn(["Neural speech", "Neural networks of speech"] * 3, 290)


class Small(Corpus):
    """A corpus in memory: ``training`` by people, ``test`` prompts."""

    def __init__(self, training=("Some training text",), delimiters="ids", name="title", test=()):
        self.tokenizer, self.template, self.lowercase = TOKENIZER, template(name), False
        self.markup, self.breaks = "strip", ""
        self.layout, self.info = TokenLayout(TOKENIZER, delimiters, self.has_prompt), {"context": 100}
        numbers = [str(i) for i in range(max(len(training), len(test)))]
        self.tables = {
            "train": pl.LazyFrame({"id": numbers[: len(training)], "completion": training}),
            "test": pl.LazyFrame({"id": numbers[: len(test)], "prompt": test}),
        }

    def scan(self, name):
        return self.tables[name]


class Scripted:
    """A back end that answers with given texts, ~ for one that does not end, and expects every token alike."""

    context = 100

    def __init__(self, *answers: str):
        self.answers, self.calls = list(answers), []

    def generate(self, prompts, settings, listener=None):
        self.calls.append(settings.seed)
        answers = [[self.answers.pop(0) for _ in range(settings.count)] for _ in prompts]
        return [
            [Completion(TOKENIZER.encode(a.strip("~")), -1.0, not a.endswith("~")) for a in some] for some in answers
        ]

    def next_token_logprobs(self, prompts):
        return np.full((len(prompts), len(TOKENIZER)), -np.log(len(TOKENIZER)), np.float32)


def generated(backend, count, prefix="", corpus=None, **settings):
    settings = GenerationSettings(**{"count": count, "seed": 1, "max_tokens": 24} | settings)
    return list(TextGenerator(backend, corpus or Small(), [Request("", plain(prefix))], settings))


ARTIFACTS = ["a|>", "<|a", "x endoftext", "startoftext", "bro\ufffdken", "two\nlines", "be\x07ll", " a", "a "]
TAGS = ["H<sub>2</sub>O", "a <br/> b", "R&amp;D", "<i>E. coli</i>", "<p>A study"]


@pytest.mark.parametrize("text", ARTIFACTS + TAGS)
def test_artifacts_are_detected(text):
    assert not is_clean(text)
    assert is_clean(text, markup="keep") == (text in TAGS)
    assert is_clean("A > B: <x> $y$ |z| R&D")


def test_artifacts_count_only_after_the_prefix():
    assert is_clean("<sub>a b", "<sub>a") and not is_clean("<sub>a</sub> b", "<sub>a")
    assert not is_clean("<sub> b", "<"), "part of the tag is in the prefix"
    assert is_clean(" a", " ") and not is_clean("a  b", "a ") and is_clean("a b", "a")
    assert is_clean("<|endoftext|> speech", "<|endoftext|>")
    assert not is_clean("<|endoftext|> speech|>", "<|endoftext|>")
    assert not is_clean("<| speech", "<"), "half of it is of the prefix"


def test_unfinished_texts_and_artifacts_are_sampled_again_with_another_seed():
    engine = Scripted("good one", "unfinished~", "stray |>", "good two", "b\nad", "good three")
    rows = generated(engine, 3)
    assert [row["text"] for row in rows] == ["good one", "good two", "good three"]
    assert len(set(engine.calls)) == len(engine.calls) == 3
    assert list(rows[0]) == [
        "prefix", "prompt", "text", "tokens", "logprob", "finished", "paper", "nearest_id", "nearest",
        "nearest_similarity",
    ]  # fmt: skip


def test_an_end_marker_in_the_text_ends_it():
    (row,) = generated(Scripted(" good<|endoftext|> and~"), 1, corpus=Small(delimiters="text"))
    assert (row["text"], row["finished"]) == ("good", True)


@pytest.mark.parametrize("answer, text", [("never ends~", "never ends"), ("stray |>", "stray |>"), ("", "")])
def test_texts_that_stay_unfinished_are_marked(answer, text):
    rows = generated(Scripted(*[answer] * generator.ROUNDS), 1)
    assert [(row["text"], row["finished"]) for row in rows] == [(text, False)]


def test_unique_drops_repeats_and_copies_and_samples_others():
    engine = Scripted("a text", "A  Text", "some training TEXT", "another", "a text", "third")
    rows = generated(engine, 3, unique=True)
    assert [row["text"] for row in rows] == ["a text", "another", "third"]


def test_fewer_texts_come_out_where_no_new_ones_are_sampled_and_a_sentence_says_so():
    engine = Scripted(*["a text"] * 40)
    rows = generated(engine, 3, unique=True)
    assert [row["text"] for row in rows] == ["a text"]
    assert len(engine.calls) == generator.ROUNDS + 1, "a round that found nothing new ends it"
    (sentence,) = texts.lacking(
        [Request("", "Neur"), Request("", "")], [*rows, *[{"prompt": "", "prefix": "Neur"}] * 3], 3
    )
    assert sentence.startswith("'': 1 of 3 texts")


def test_the_best_of_many_are_kept_without_copies():
    class Judging(Scripted):
        def generate(self, prompts, settings, listener=None):
            found = super().generate(prompts, settings)
            return [
                [replace(c, logprob=-float(len(TOKENIZER.decode(c.ids)))) for c in completions] for completions in found
            ]

    engine = Judging("the worst of all", "good", "good", "better~", "Some training text", "middling")
    rows = generated(engine, 2, best_of=3)
    assert [(row["text"], row["logprob"]) for row in rows] == [("good", -4.0), ("middling", -8.0)]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_begins_with_its_prefix_to_the_letter(prefix):
    (row,) = generated(Scripted(*[" ends"] * generator.ROUNDS), 1, prefix)
    assert row["prefix"] == plain(prefix) and len(row["prefix"]) == len(prefix)
    assert row["text"].startswith(row["prefix"]) and row["text"].endswith(" ends" if prefix else "ends")
    assert row["finished"] or "\ufffd" in row["text"]


def test_wrong_requests_are_errors_before_anything_is_sampled():
    engine = Scripted()
    for match, request, settings in [
        (r"24 tokens after 'word .*' \(\d+ tokens\) exceed .* of 100 tokens. Lower max_tokens, or", "word " * 28, {}),
        (r"500 tokens after '' \(1 tokens\) exceed .* context of 100 tokens", "", {"max_tokens": 500}),
    ]:
        with pytest.raises(RequestError, match=match):
            TextGenerator(engine, Small(), [Request("", request)], GenerationSettings(**{"max_tokens": 24} | settings))


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


def test_requests_share_batches_and_the_seed_decides(finished):
    backend, corpus, calls = open_backend(finished), Corpus(finished), []
    call = backend.generate
    backend.generate = lambda prompts, *others: calls.append(len(prompts)) or call(prompts, *others)
    settings, requests = GenerationSettings.of(SETTINGS | {"unique": False}), [Request("", "Neural"), Request("", "x")]

    def texts_of(settings):
        return [row["text"] for row in TextGenerator(backend, corpus, requests, settings)]

    first = texts_of(settings)
    assert calls[0] == 8, "one batch"
    assert texts_of(settings) == first != texts_of(replace(settings, seed=2))
    beams = texts_of(replace(settings, beams=4, count=2))
    assert len(beams) == len(set(beams)) == 4


class Searching(Scripted):
    """A back end that returns the first texts of its answers for any number of beams."""

    def generate(self, prompts, settings, listener=None):
        assert settings.count == settings.beams, "all beams, so that repeats can be dropped"
        self.calls.append(settings.beams)
        texts = (self.answers * settings.beams)[: settings.beams]
        completions = [Completion(TOKENIZER.encode(a.strip("~")), -1.0, not a.endswith("~")) for a in texts]
        return [completions] * len(prompts)


def test_texts_of_a_beam_search_differ_in_their_letters():
    engine = Searching("A study", "A study.", "a  Study!", "Another", "The third", "The third?")
    assert [row["text"] for row in generated(engine, 3, beams=3)] == ["A study", "Another", "The third"]
    assert engine.calls == [3, 6], "a wider search finds the others"
    rows = generated(engine, 2, beams=3, unique=True, corpus=Small(["a STUDY"]))
    assert [row["text"] for row in rows] == ["Another", "The third"]


def test_a_beam_search_that_finds_no_other_texts_returns_fewer_and_unfinished_ones_last():
    engine = Searching("one~", "two", "one~")
    assert [(row["text"], row["finished"]) for row in generated(engine, 3, beams=3)] == [("two", True), ("one", False)]
    assert engine.calls == [3, 6, 12, 24]


def test_greedy_decoding_returns_one_text():
    assert [row["text"] for row in generated(Scripted("one"), 3, top_k=1)] == ["one"]


def test_texts_have_no_outer_spaces_except_their_prefixes():
    for prefix in ("", "Low", "Low ", " "):
        (row,) = generated(Scripted(" a b "), 1, prefix)
        assert row["finished"] and "  " not in row["text"] and row["text"].startswith(prefix)
        assert row["text"].endswith(" b") and row["text"][:1] == (prefix or "a")[:1]


def test_texts_with_tags_are_sampled_again_unless_the_corpus_keeps_tags():
    corpus = Small()
    assert generated(Scripted("H<sub>2</sub>", "H2"), 1, corpus=corpus)[0]["text"] == "H2"
    corpus.markup = "keep"
    assert generated(Scripted("H<sub>2</sub>", "H2"), 1, corpus=corpus)[0]["text"] == "H<sub>2</sub>"


KILLED = """
import os, signal
from titlesmith.corpus import Corpus
from titlesmith.generate import generator, open_backend, write_texts
from titlesmith.runs import Run

generator.BLOCK, block = 2, generator.TextGenerator.block
def stopping(self, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return block(self, number)

generator.TextGenerator.block = stopping
write_texts(Run("small"), open_backend(Run("small")), Corpus(Run("small")), {settings})
"""


def test_a_killed_generation_resumes_to_the_same_file(begun, monkeypatch):
    monkeypatch.setattr(generator, "BLOCK", 2)
    backend, corpus, path = open_backend(begun), Corpus(begun), begun / "texts.jsonl"
    complete = texts.write_texts(begun, backend, corpus, SETTINGS)
    lines = path.read_text("utf-8")
    assert [json.loads(line) for line in lines.splitlines()] == complete == begun.texts
    assert Counter(row["prefix"] for row in complete) == {"": 4, "Neur": 4}
    begun.clear("generate")
    begun.begin("generate", SETTINGS)
    killed = subprocess.run([sys.executable, "-c", KILLED.replace("{settings}", repr(SETTINGS))], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text("utf-8") == "".join(lines.splitlines(True)[:6]), "no text is lost"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prefix": "Neu')  # as a kill while it writes leaves it
    numbers, block = [], generator.TextGenerator.block
    monkeypatch.setattr(
        generator.TextGenerator, "block", lambda self, number: numbers.append(number) or block(self, number)
    )
    assert texts.write_texts(begun, backend, corpus, SETTINGS) == complete
    assert (path.read_text("utf-8"), numbers) == (lines, [3])


def test_columns_with_one_value_are_not_shown():
    rows = generated(Scripted("one", "two"), 2)
    assert list(texts.columns(rows)) == ["prefix", "text", "logprob", "nearest", "nearest_similarity"]
    rows[0] |= {"finished": False, "prompt": "A title"}
    assert {"finished", "prompt"} <= set(texts.columns(rows))


FREE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "count": 1}


class Opinions:
    """A back end whose log-probabilities are random, but always the same after the same ids."""

    def next_token_logprobs(self, prompts):
        logits = [np.random.default_rng([7, *prompt]).normal(0, 3, len(TOKENIZER)) for prompt in prompts]
        return np.array([row - np.logaddexp.reduce(row) for row in logits], np.float32)


def probability(prompt, ids):
    rows = Opinions().next_token_logprobs([[*prompt, *ids[:i]] for i in range(len(ids))])
    return sum(float(row[i]) for row, i in zip(rows, ids, strict=True))


@given(st.text("Neuralspch tü1", max_size=20))
def test_each_candidate_has_its_exact_probability(prefix):
    corpus = Small()
    prefix = corpus.clean_prefix(prefix)
    found = TokenHealing(Opinions(), corpus, Request("", prefix), 100)
    opening = corpus.layout.prompt_ids("")
    assert np.isclose(np.exp(found.logprobs).sum(), 1)
    known = np.array([probability(opening, ids) for ids in found.candidates])
    np.testing.assert_allclose(found.logprobs, known - np.logaddexp.reduce(known), atol=1e-4)
    assert found.opening == opening and all(TOKENIZER.decode(ids).startswith(prefix) for ids in found.candidates)


def test_an_unfinished_word_may_continue_in_the_token_of_the_complete_word():
    (whole,) = TOKENIZER.encode("Neural")
    found = TokenHealing(Opinions(), Small(), Request("", "Neur"), 100)
    assert [whole] in found.candidates
    found = TokenHealing(Opinions(), Small(), Request("", "Neurx"), 100)
    assert whole not in [ids[0] for ids in found.candidates]


def test_temperature_top_k_and_top_p_choose_among_the_candidates():
    found = TokenHealing(Opinions(), Small(), Request("", "Neural s"), 100)
    best, rng = int(found.logprobs.argmax()), np.random.default_rng(1)
    assert len(found.candidates) > 2
    for change in ({"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-6}, {"beams": 2}):
        assert set(found.sample(50, GenerationSettings(**FREE | change), rng)) == {best}
    share = np.mean(np.array(found.sample(20_000, GenerationSettings(**FREE), rng)) == best)
    assert abs(share - np.exp(found.logprobs[best])) < 0.02


def test_candidates_that_leave_no_room_are_dropped():
    found = TokenHealing(Opinions(), Small(), Request("", "Neur"), 2)
    assert {len(ids) for ids in found.candidates} == {1}


@pytest.mark.parametrize("vocabulary", ["byte_level", "sentencepiece"])
def test_texts_continue_prefixes_inside_words_and_after_spaces(project, vocabulary):
    from tiny import made

    folder = models.folder(made(project, "llama", vocabulary))
    backend = TransformersBackend(read(folder, "none"), Tokenizer.load(folder))
    corpus = DocumentFormat(template("title"), backend.tokenizer)
    settings = GenerationSettings(count=20, max_tokens=8, temperature=1.0, top_k=0, top_p=1.0)
    requests = [Request("", prefix) for prefix in ("", "Neural ", "Neur", "A study of m", "in noise")]
    rows = list(TextGenerator(backend, corpus, requests, settings, Nearest(None)))
    for request in requests:
        prefix, texts = request.prefix, [row["text"] for row in rows if row["prefix"] == request.prefix]
        assert all(text.startswith(prefix) for text in texts) and len(set(texts)) > 10
        assert not any(text[len(prefix) :].startswith(" ") for text in texts if prefix[-1:] in ("", " "))
        if prefix == "Neur":
            assert all(text.startswith("Neura") for text in texts), "Neur is no token"
