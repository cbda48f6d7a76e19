import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from generate.test_generator import TOKENIZER, Small
from titlesmith.generate import GenerationSettings
from titlesmith.generate.token_healing import TokenHealing

FREE = {"temperature": 1.0, "top_k": 0, "count": 1}


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
    known = np.array([probability(opening, ids[len(opening) :]) for ids in found.candidates])
    np.testing.assert_allclose(found.logprobs, known - np.logaddexp.reduce(known), atol=1e-4)
    for ids, extends in zip(found.candidates, found.extends, strict=True):
        text = TOKENIZER.decode_after("", ids[len(opening) :])
        assert text.startswith(prefix) and (text != prefix) == extends


def test_an_unfinished_word_may_continue_in_the_token_of_the_complete_word():
    (whole,) = TOKENIZER.encode("Neural")
    found = TokenHealing.of(Opinions(), Small(), "", "Neur", 100)
    assert [TOKENIZER.eos_id, whole] in found.candidates
    assert [TOKENIZER.eos_id, whole] not in [
        ids[:2] for ids in TokenHealing.of(Opinions(), Small(), "", "Neurx", 100).candidates
    ]


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
    assert {len(ids) for ids in found.candidates} == {2}
