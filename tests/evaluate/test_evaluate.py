import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith import engines
from titlesmith.corpus import Corpus
from titlesmith.evaluate import style
from titlesmith.evaluate.diversity import distinct, ngrams
from titlesmith.evaluate.novelty import copy_rate, near_copy_rate, ngram_novelty

TEXTS = st.lists(st.text("ab \t", max_size=12), max_size=8)


def test_ngrams():
    assert ngrams("A b  C", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("one", 2) == []


def test_distinct_counts_repeats_across_texts():
    assert distinct(["a b", "a c"], 1) == 3 / 4
    assert distinct(["a b", "A B"], 2) == 1 / 2
    assert distinct([], 1) == distinct(["a"], 2) == 0


def test_copies_are_found_whatever_case_and_space():
    assert copy_rate(["A  title ", "new"], ["a TITLE"]) == 0.5
    assert copy_rate([], ["a"]) == 0
    assert near_copy_rate([{"nearest_similarity": 0.9}, {"nearest_similarity": 0.89}]) == 0.5


def test_novelty_is_the_share_of_unseen_runs_of_words():
    assert ngram_novelty(["a b c d"], ["x a b c"]) == 0.5
    assert ngram_novelty(["a b"], ["a b c"]) == 0


@given(TEXTS, TEXTS)
def test_figures_are_shares_and_training_texts_are_not_novel(texts, training):
    assert all(0 <= value <= 1 for value in style(texts, training).values())
    assert style(training, training)["ngram_novelty"] == 0


def test_metrics_of_a_run(finished):
    metrics, engine, corpus = finished.metrics, engines.load(finished), Corpus(finished)
    for name in ("train", "valid", "test"):
        assert metrics["perplexity"][name] == pytest.approx(math.exp(engine.loss(corpus.documents(name))))
    texts = [row["text"] for row in finished.texts]
    assert metrics["distinct_1"] == distinct(texts, 1)
    assert metrics["human"]["texts"] == min(len(texts), len(corpus.documents("test")))
    assert metrics["prefix_kept_rate"] == 1
