import pytest

from titlesmith.evaluate import diversity
from titlesmith.evaluate.diversity import distinct, ngrams, self_bleu
from titlesmith.evaluate.figures import MissingError

TITLES = ["Neural speech recognition in noise", "Neural speech synthesis", "Music by graphs", "On the pitch of song"]


def test_ngrams():
    assert ngrams("A b  C", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("one", 2) == []


def test_distinct_counts_repeats_across_texts():
    assert distinct(["a b", "a c"], 1).value == 3 / 4
    assert distinct(["a b", "A B"], 2).value == 1 / 2
    assert distinct(["a b", "a c"], 1, most=2).value == 1, "the first two words"
    for texts in ([], ["  "], ["a"]):
        with pytest.raises(MissingError, match="no text has 2 words"):
            distinct(texts, 2)


def test_self_bleu_is_one_for_texts_all_equal_and_small_for_texts_that_share_nothing():
    assert self_bleu(["a title of five words"] * 4, 1).value == pytest.approx(1)
    assert self_bleu(["Hum"] * 3, 1).value == pytest.approx(1), "shorter than four words"
    assert self_bleu(["a b c d e", "f g h i j", "k l m n o"], 1).value < 0.1
    some = self_bleu(TITLES, 1)
    assert 0 <= some.interval[0] <= some.value <= some.interval[1] < 1
    assert self_bleu([*TITLES, TITLES[0]], 1).value > some.value > 0


def test_self_bleu_is_the_mean_of_what_sacrebleu_says(monkeypatch):
    from sacrebleu import sentence_bleu

    scores = [sentence_bleu(text, [t for t in TITLES if t != text], use_effective_order=True).score for text in TITLES]
    assert self_bleu(TITLES, 1).value == pytest.approx(sum(scores) / len(scores) / 100)
    monkeypatch.setattr(diversity, "MOST", 2)
    first, last = TITLES[0], TITLES[-1]
    assert self_bleu(TITLES, 1) == self_bleu([first, last], 1), "of many texts, some evenly spread"


def test_self_bleu_takes_two_texts():
    with pytest.raises(MissingError, match="two"):
        self_bleu(["one"], 1)
    assert self_bleu(["", " "], 1).value == 0
