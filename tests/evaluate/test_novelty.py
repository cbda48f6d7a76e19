import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.corpora import Corpus
from titlesmith.evaluate.measurement import MissingError
from titlesmith.evaluate.novelty import SIZES, ngram_novelty, unseen

TEXTS = st.lists(st.text("ab \t", max_size=12), max_size=8)


def novelty(texts, training, n=3):
    return ngram_novelty(texts, n, unseen(Corpus(training), texts)[n], 1)


def test_novelty_is_the_share_of_unseen_runs_of_words():
    assert novelty(["a b c d"], ["x A  b c"]).value == 0.5
    assert novelty(["a b c", "d e f", "a b"], ["a b c"]).value == 0.5
    with pytest.raises(MissingError, match="no text has 3 words"):
        novelty(["a b"], ["a b c"])


def test_runs_of_words_do_not_reach_from_one_text_into_the_next():
    assert novelty(["a b"], ["x a", "b x"], 2).value == 1


@given(TEXTS, TEXTS)
def test_training_texts_are_not_new_and_longer_runs_are_newer(texts, training):
    new = unseen(Corpus(training), texts)
    for n in SIZES:
        if any(len(text.split()) >= n for text in texts):
            assert 0 <= ngram_novelty(texts, n, new[n], 1).value <= 1
        known = {gram for text in training for gram in zip(*(text.split()[i:] for i in range(n)), strict=False)}
        assert not new[n] & known
    assert not any(unseen(Corpus(training), training).values())


def test_runs_of_up_to_eight_words_are_measured():
    text = "a b c d e f g h"
    assert [novelty([text], [f"x {text} y"], n).value for n in SIZES] == [0] * 8
    assert [novelty([text], ["a b c d", "d e f g h"], n).value for n in SIZES] == pytest.approx(
        [0, 0, 1 / 6, 2 / 5, 3 / 4, 1, 1, 1]
    )
