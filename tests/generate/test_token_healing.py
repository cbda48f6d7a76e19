import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.test_generator import TOKENIZER, Small
from titlesmith import models
from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate import GenerationSettings, Nearest, Request, TextGenerator
from titlesmith.generate.huggingface import TransformersBackend
from titlesmith.generate.token_healing import TokenHealing
from titlesmith.models.weights import read

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
    found = TokenHealing.of(Opinions(), corpus, "", prefix, 100)
    opening = corpus.layout.prompt_ids("")
    assert np.isclose(np.exp(found.logprobs).sum(), 1)
    known = np.array([probability(opening, ids) for ids in found.candidates])
    np.testing.assert_allclose(found.logprobs, known - np.logaddexp.reduce(known), atol=1e-4)
    assert found.opening == opening and all(TOKENIZER.decode(ids).startswith(prefix) for ids in found.candidates)


def test_an_unfinished_word_may_continue_in_the_token_of_the_complete_word():
    (whole,) = TOKENIZER.encode("Neural")
    found = TokenHealing.of(Opinions(), Small(), "", "Neur", 100)
    assert [whole] in found.candidates
    found = TokenHealing.of(Opinions(), Small(), "", "Neurx", 100)
    assert whole not in [ids[0] for ids in found.candidates]


def test_temperature_top_k_and_top_p_choose_among_the_candidates():
    found = TokenHealing.of(Opinions(), Small(), "", "Neural s", 100)
    best, rng = int(found.logprobs.argmax()), np.random.default_rng(1)
    assert len(found.candidates) > 2
    for change in ({"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-6}, {"beams": 2}):
        assert set(found.sample(50, GenerationSettings(**FREE | change), rng)) == {best}
    share = np.mean(np.array(found.sample(20_000, GenerationSettings(**FREE), rng)) == best)
    assert abs(share - np.exp(found.logprobs[best])) < 0.02


def test_candidates_that_leave_no_room_are_dropped():
    found = TokenHealing.of(Opinions(), Small(), "", "Neur", 2)
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
