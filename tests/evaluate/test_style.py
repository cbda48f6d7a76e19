import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluate.corpora import Corpus
from titlesmith.evaluate.measurement import MissingError
from titlesmith.evaluate.style import SIZES, distinct, latex_parses, ngrams, novelty, parses, self_bleu, unseen

TEXTS = st.lists(st.text("ab \t", max_size=12), max_size=8)


def of(texts, training, n=3):
    return novelty(texts, n, unseen(Corpus(training), texts)[n], 1)


def test_novelty_is_the_share_of_unseen_runs_of_words():
    assert of(["a b c d"], ["x A  b c"]).value == 0.5
    assert of(["a b c", "d e f", "a b"], ["a b c"]).value == 0.5
    with pytest.raises(MissingError, match="nothing"):
        of(["a b"], ["a b c"])


def test_runs_of_words_do_not_reach_from_one_text_into_the_next():
    assert of(["a b"], ["x a", "b x"], 2).value == 1


@given(TEXTS, TEXTS)
def test_training_texts_are_not_new_and_longer_runs_are_newer(texts, training):
    new = unseen(Corpus(training), texts)
    for n in SIZES:
        if any(len(text.split()) >= n for text in texts):
            assert 0 <= novelty(texts, n, new[n], 1).value <= 1
        known = {gram for text in training for gram in zip(*(text.split()[i:] for i in range(n)), strict=False)}
        assert not new[n] & known
    assert not any(unseen(Corpus(training), training).values())


def test_runs_of_up_to_eight_words_are_measured():
    text = "a b c d e f g h"
    assert [of([text], [f"x {text} y"], n).value for n in SIZES] == [0] * 8
    assert [of([text], ["a b c d", "d e f g h"], n).value for n in SIZES] == pytest.approx(
        [0, 0, 1 / 6, 2 / 5, 3 / 4, 1, 1, 1]
    )


def test_ngrams():
    assert ngrams("A b  C", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("one", 2) == []


def test_distinct_counts_repeats_across_texts():
    assert distinct(["a b", "a c"], 1).value == 3 / 4
    assert distinct(["a b", "A B"], 2).value == 1 / 2
    assert distinct(["a b", "a c"], 1, maximum=2).value == 1, "the first two words"
    for texts in ([], ["  "], ["a"]):
        with pytest.raises(MissingError, match="nothing"):
            distinct(texts, 2)


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
    monkeypatch.setattr("titlesmith.evaluate.style.MAX_BLEU_TEXTS", 2)
    first, last = TITLES[0], TITLES[-1]
    assert self_bleu(TITLES, 1) == self_bleu([first, last], 1), "of many texts, some evenly spread"


def test_self_bleu_takes_two_texts():
    with pytest.raises(MissingError, match="two"):
        self_bleu(["one"], 1)
    assert self_bleu(["", " "], 1).value == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"We reach $\frac{1}{2}$ of $O(n^{2})$ and 50\% at \$5", True),
        ("50% of $x$", True),
        (r"\emph{new} \unknown{macro}", True),
        ("A formula $x^2 that never ends", False),
        ("50% of $x", False),
        (r"$\frac{1}{2$", False),
        (r"\begin{equation} x", False),
        ("\\mathbf{" * 5000, False),
    ],
)
def test_latex_parses_if_all_that_begins_ends(text, expected):
    assert parses(text) == expected


def test_the_share_is_of_texts_with_latex():
    measurement = latex_parses(["plain", "$x$", "$y", r"\alpha", "a { in plain text"])
    assert measurement.value == pytest.approx(2 / 3)
    with pytest.raises(MissingError, match="nothing"):
        latex_parses(["plain"])
