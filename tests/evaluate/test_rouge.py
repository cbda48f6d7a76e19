import pytest

from titlesmith.evaluate.measurement import Measurements
from titlesmith.evaluate.rouge import ROUGE, add_rouge


def rouge(pairs):
    measurements = Measurements()
    add_rouge(measurements, pairs, 1)
    return measurements


def test_rouge_of_known_texts():
    found = rouge([("p", "the cat sat on the mat", "the cat lay on the mat")]).values
    assert found["rouge1"] == pytest.approx(5 / 6)
    assert found["rouge2"] == pytest.approx(3 / 5)
    assert found["rougeL"] == pytest.approx(5 / 6)


def test_stemming_makes_forms_of_a_word_equal():
    found = rouge([("p", "training deep networks", "trained deeper network")]).values
    assert found["rouge1"] == 0 and found["rouge1_stemmed"] == pytest.approx(2 / 3)
    assert found["rouge2_stemmed"] == 0 and found["rougeL_stemmed"] == pytest.approx(2 / 3)
    assert set(found) == set(ROUGE)


def test_the_mean_is_over_texts_and_the_interval_over_papers():
    good, bad = ("a", "one two", "one two"), ("b", "one two", "three four")
    found = rouge([good, good, good, bad])
    assert found.values["rouge1"] == 0.75, "over texts"
    assert found.intervals["rouge1"] == [0.0, 1.0], "a resample may have one of the two papers only"
    assert rouge([good] * 30).intervals["rouge1"] == [1.0, 1.0], "thirty texts for a paper are one paper"
    assert set(rouge([]).missing) == set(ROUGE)


def test_empty_long_and_foreign_texts_have_figures():
    found = rouge([("a", "real", ""), ("b", "音声", "音声"), ("c", "word " * 50, "word " * 2000)]).values
    assert 0 < found["rouge1"] < 1
