import pytest

from titlesmith.evaluate.distinct import distinct, ngrams
from titlesmith.evaluate.measurement import MissingError


def test_ngrams():
    assert ngrams("A b  C", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("one", 2) == []


def test_distinct_counts_repeats_across_texts():
    assert distinct(["a b", "a c"], 1).value == 3 / 4
    assert distinct(["a b", "A B"], 2).value == 1 / 2
    assert distinct(["a b", "a c"], 1, maximum=2).value == 1, "the first two words"
    for texts in ([], ["  "], ["a"]):
        with pytest.raises(MissingError, match="no text has 2 words"):
            distinct(texts, 2)
