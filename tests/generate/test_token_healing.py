import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from generate.test_generator import TOKENIZER, Small
from titlesmith.generate.token_healing import beginnings

SETTINGS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "beams": 1}


class Opinions:
    """An engine whose expectations are random, but always the same behind the same ids."""

    def next(self, prompts):
        logits = [np.random.default_rng([7, *prompt]).normal(0, 3, len(TOKENIZER)) for prompt in prompts]
        return np.array([row - np.logaddexp.reduce(row) for row in logits], np.float32)


def probability(prompt, ids):
    rows = Opinions().next([[*prompt, *ids[:i]] for i in range(len(ids))])
    return sum(float(row[i]) for row, i in zip(rows, ids, strict=True))


@given(st.text("Neuralspch tü1", max_size=20))
def test_each_way_to_begin_has_its_exact_probability(prefix):
    corpus = Small()
    prefix = corpus.clean_prefix(prefix)
    found = beginnings(Opinions(), corpus, "", prefix, 100)
    opening = corpus.layout.prompt_ids("")
    assert np.isclose(np.exp(found.logprob).sum(), 1)
    known = np.array([probability(opening, ids[len(opening) :]) for ids in found.ids])
    np.testing.assert_allclose(found.logprob, known - np.logaddexp.reduce(known), atol=1e-4)
    for ids, beyond in zip(found.ids, found.beyond, strict=True):
        text = TOKENIZER.decode_after("", ids[len(opening) :])
        assert text.startswith(prefix) and (text != prefix) == beyond


def test_a_word_that_is_cut_goes_on_in_the_tokens_of_the_whole_word():
    (whole,) = TOKENIZER.encode("Neural")
    found = beginnings(Opinions(), Small(), "", "Neur", 100)
    assert [TOKENIZER.eos_id, whole] in found.ids
    assert [TOKENIZER.eos_id, whole] not in [ids[:2] for ids in beginnings(Opinions(), Small(), "", "Neurx", 100).ids]


def test_temperature_top_k_and_nucleus_choose_among_the_ways():
    found = beginnings(Opinions(), Small(), "", "Neural s", 100)
    best, rng = int(found.logprob.argmax()), np.random.default_rng(1)
    assert len(found.ids) > 2
    for change in ({"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-6}, {"beams": 2}):
        assert set(found.draw(50, SETTINGS | change, rng)) == {best}
    share = np.mean(np.array(found.draw(20_000, SETTINGS, rng)) == best)
    assert abs(share - np.exp(found.logprob[best])) < 0.02


def test_ways_that_leave_no_room_are_left_out():
    found = beginnings(Opinions(), Small(), "", "Neur", 2)
    assert {len(ids) for ids in found.ids} == {2}
