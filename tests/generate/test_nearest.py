import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import fuzz

from titlesmith.corpus.clean import fold
from titlesmith.generate import nearest
from titlesmith.generate.nearest import Nearest


class Texts:
    """What `Nearest` reads of a corpus."""

    def __init__(self, texts):
        self.table = pl.DataFrame({"id": [f"id {i}" for i in range(len(texts))], "completion": texts})

    def scan(self, name):
        assert name == "train"
        return self.table.lazy()


WORDS = [f"word{i}" for i in range(500)]


def titles(count, words, seed=1):
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=words)) for _ in range(count)]


def test_a_copy_is_its_own_nearest_whatever_its_case_and_space():
    known = Nearest(Texts(["Speech Recognition", "Music of  Speech", "zzz"]))
    (match,) = known.find(["SPEECH  recognition"])
    assert tuple(match.values()) == ("id 0", "Speech Recognition", 1.0)
    assert known.is_copy("music OF speech") and not known.is_copy("music of speec")


def test_texts_that_share_nothing_have_similarity_0():
    assert Nearest(Texts(["wxyz"])).find(["abcd"])[0]["nearest_similarity"] == 0


def test_the_first_of_equally_like_texts_is_found():
    assert Nearest(Texts(["ab", "abc", "ab"])).find(["ab"])[0]["nearest_id"] == "id 0"


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20), st.text(max_size=20))
def test_titles_are_compared_with_every_training_text(training, text):
    (match,) = Nearest(Texts(training)).find([text])
    best = max(fuzz.ratio(fold(text), fold(other)) for other in training)
    assert match["nearest_similarity"] == pytest.approx(best / 100, abs=1e-4)


def test_unknown_training_texts_give_empty_matches():
    known = Nearest(None)
    assert known.find(["a", "b"]) == [nearest.UNKNOWN] * 2 and not known.is_copy("a")


def test_long_texts_are_found_among_those_that_share_rare_words(monkeypatch):
    training = titles(300, 80)  # some 450 characters each
    texts = [" ".join(text.split()[:60]) + " and something else" for text in training[:20]]
    known = Nearest(Texts(training))
    assert known._is_long, "candidates alone are compared"
    assert [match["nearest_id"] for match in known.find(texts)] == [f"id {i}" for i in range(20)]
    monkeypatch.setattr(nearest, "LONG", 10**9)
    assert known.find(texts) == Nearest(Texts(training)).find(texts)


@pytest.mark.parametrize("text", ["", " ", "x" * 10_000, "\u202e", "🎶"])
def test_any_text_has_a_nearest(text):
    for training in (["a b c"], ["word " * 100] * 3):
        (match,) = Nearest(Texts(training)).find([text])
        assert match["nearest"] in training and 0 <= match["nearest_similarity"] <= 1


def test_a_corpus_is_read(finished):
    from titlesmith.corpus import Corpus

    corpus = Corpus(finished)
    text = corpus.table("train")["completion"][3]
    assert Nearest(corpus).find([text])[0]["nearest_similarity"] == 1
