import pytest

from evaluate.corpora import Corpus
from titlesmith.evaluate.overlap import acronyms, examples, key_terms, new_words, use_rate, words

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


def test_key_terms_are_stems_of_long_words():
    assert key_terms("On the Training of Deep Networks with 2018 data") == {"train", "deep", "network", "data"}
    assert key_terms("Network trained deeply") & key_terms("training networks") == {"network", "train"}


def test_acronyms_have_two_capitals():
    assert acronyms("BERT and LoRA for RNNs: A Study with U-Net and Speech") == {"bert", "lora", "rnn", "u-net"}
    assert acronyms("ATTENTION IS ALL YOU NEED") == acronyms("no capitals") == set()


def test_the_share_is_over_pairs_of_terms_and_texts():
    terms = {"a": {"bert", "lora"}, "b": {"rnn"}, "c": set()}
    texts = {"a": ["BERT works", "LoRA and BERT work"], "b": ["Nothing"], "c": ["RNN"]}
    measurement = use_rate(terms, texts, acronyms, 1)
    assert measurement.value == pytest.approx(3 / 5)
    assert measurement.interval[0] < 3 / 5 < measurement.interval[1]
