import pytest

from titlesmith.evaluate.measurement import MissingError
from titlesmith.evaluate.self_bleu import self_bleu

TITLES = ["Neural speech recognition in noise", "Neural speech synthesis", "Music by graphs", "On the pitch of song"]


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
    monkeypatch.setattr("titlesmith.evaluate.self_bleu.MAX_TEXTS", 2)
    first, last = TITLES[0], TITLES[-1]
    assert self_bleu(TITLES, 1) == self_bleu([first, last], 1), "of many texts, some evenly spread"


def test_self_bleu_takes_two_texts():
    with pytest.raises(MissingError, match="two"):
        self_bleu(["one"], 1)
    assert self_bleu(["", " "], 1).value == 0
