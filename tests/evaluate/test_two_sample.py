import numpy as np
import pytest

from titlesmith.evaluate.measurement import MissingError
from titlesmith.evaluate.two_sample import classifier_accuracy, comparable

WORDS = "speech music sound voice noise tempo pitch echo coding synthesis detection repair and of with by".split()  # noqa: SIM905


def sample(seed: int, size: int, opening: str = "") -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    return [("", opening + " ".join(rng.choice(WORDS, 6))) for _ in range(size)]


def test_alike_samples_are_confused_and_different_ones_are_not():
    alike = classifier_accuracy(sample(1, 150), sample(2, 150), 1)
    assert alike.interval[0] < 0.5 < alike.interval[1] and alike.interval[1] - alike.interval[0] < 0.15
    assert classifier_accuracy(sample(1, 60), sample(2, 60, "The "), 1).value > 0.95
    assert classifier_accuracy(sample(1, 60), sample(2, 90, "The "), 1) == classifier_accuracy(
        sample(1, 60), sample(2, 90, "The ")[:60], 1
    ), "as many of both"


def test_a_text_and_the_real_text_of_its_paper_are_in_one_fold():
    first = [(f"p{i}", f"word{i} token{i} name{i}") for i in range(60)]
    apart = classifier_accuracy([("", text) for _, text in first], [("", f"{text} x") for _, text in first], 1)
    assert classifier_accuracy(first, first, 1).value == pytest.approx(0.5, abs=0.1)
    assert apart.value > 0.5


def test_few_or_empty_texts_have_no_accuracy():
    for first in (sample(1, 19), []):
        with pytest.raises(MissingError, match="20 texts of each kind"):
            classifier_accuracy(first, sample(2, 50), 1)
    with pytest.raises(MissingError, match="too few or too alike"):
        classifier_accuracy([("", " ")] * 30, [("", "")] * 30, 1)


def test_texts_with_a_prefix_and_others_for_one_prompt_are_excluded():
    rows = [
        {"prefix": "", "prompt": "a", "text": "1", "paper": "A"},
        {"prefix": "", "prompt": "a", "text": "2", "paper": "A"},
        {"prefix": "N", "prompt": "b", "text": "N3", "paper": "B"},
        {"prefix": "", "prompt": "b", "text": "4", "paper": None},
    ]
    assert comparable(rows, True) == [("A", "2"), ("", "4")]
    assert comparable(rows, False) == [("A", "1"), ("A", "2"), ("", "4")]
