import pytest

from evaluate.corpora import Corpus
from titlesmith.evaluate.future_use import examples, new_words, words
from titlesmith.evaluate.terms import use_rate

OLD = Corpus(["Hidden models of speech."], ["We train HMMs on 80 hours."])
PROMPTS = {"a": "BERT models of speech, on 96 hours; ELMo too", "b": "We train ELMo.", "c": "speech"}
TEXTS = {"a": ["Speech with BERT", "bert and elmo"], "b": ["Speech"], "c": ["BERT"]}


def test_new_words_are_in_the_prompt_and_in_no_training_text():
    assert new_words(OLD, PROMPTS) == {"a": {"bert", "elmo", "too"}, "b": {"elmo"}, "c": set()}


def test_words_are_folded_and_numbers_are_none():
    assert words("Don't pre-train: GPT-2's 2018, x 3-gram é l'été") == {
        "don't", "pre-train", "gpt-2's", "gram", "l'été"
    }  # fmt: skip


def test_use_is_the_share_of_new_words_and_texts():
    measurement = use_rate(new_words(OLD, PROMPTS), TEXTS, words, 1)
    assert measurement.value == pytest.approx(3 / 7), "bert, bert and elmo of 3 words in 2 texts and 1 in 1"


def test_examples_count_texts_of_both():
    real = {"a": "ELMo, too", "b": "ELMo", "c": ""}
    first, *others = examples(new_words(OLD, PROMPTS), TEXTS, real)
    assert first == {"word": "elmo", "prompts": 2, "generated": 1, "texts": 3, "people": 2}
    assert [row["word"] for row in others] == ["too", "bert"], "among equals, what people use comes first"
