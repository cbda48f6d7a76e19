import pytest

from titlesmith.evaluate.terms import acronyms, key_terms, use_rate


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
