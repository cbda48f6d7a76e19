import math

import numpy as np
import pytest

import tiny
from titlesmith.errors import RequestError
from titlesmith.evaluate.measurement import MissingError
from titlesmith.evaluate.reference import check, open_reference, reference_bits_per_byte


@pytest.mark.parametrize("vocabulary", ["byte_level", "sentencepiece"])
def test_the_loss_of_texts_alone_is_measured(project, vocabulary):
    engine = open_reference(tiny.made(project, "llama", vocabulary), [])
    texts = ["Neural speech", "Echo: \ud800 音声", ""]
    measurement = reference_bits_per_byte(engine, texts, 1)
    # The same from each text's ids
    nats, tokenizer = 0.0, engine.tokenizer
    for text in (text.encode("utf-8", "replace").decode() for text in texts[:2]):
        start = [tokenizer.eos_id, *tokenizer.bos_ids]
        ids = np.array([[*start, *tokenizer.encode(text)]])
        learned = np.array([[0.0] * (len(start) - 1) + [1.0] * len(tokenizer.encode(text))])
        nats += engine.losses(ids, learned)[0]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    assert measurement.value == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_of_a_text_longer_than_the_context_a_part_is_measured(project):
    engine = open_reference(tiny.made(project, "gpt2"), [])
    engine.context = 8
    text = "Neural speech recognition in noise, in the wild"
    beginning = engine.tokenizer.decode(engine.tokenizer.encode(text)[:7])
    long, short = (reference_bits_per_byte(engine, [one, "One"], 1).value for one in (text, beginning))
    assert len(beginning) < len(text) and long == pytest.approx(short)


def test_no_reference_model_and_no_text_are_missing(project):
    with pytest.raises(MissingError, match="no reference_model"):
        reference_bits_per_byte(open_reference("", []), ["text"], 1)
    with pytest.raises(MissingError):
        reference_bits_per_byte(open_reference(tiny.made(project, "gpt2"), []), [], 1)


def test_the_model_must_be_another_one_that_is_here(project):
    check({"reference_model": ""}, "scratch")
    name = tiny.made(project, "gpt2")
    check({"reference_model": name}, "scratch")
    for wrong, why in (("124M", "is not hf:"), ("hf:scratch", "is not hf:"), (name, "is fine-tuned")):
        with pytest.raises(RequestError, match=f"evaluate.reference_model: .*{why}"):
            check({"reference_model": wrong}, name)


def test_texts_begin_after_the_token_that_the_model_expects_them_after(project):
    people = ["Neural speech recognition", "Echo in noise"]
    engine = open_reference(tiny.made(project, "gpt2"), people)
    chosen = reference_bits_per_byte(engine, people, 1).value
    for opening in engine.tokenizer.openings:
        engine.tokenizer = engine.tokenizer.with_end(*opening)
        assert reference_bits_per_byte(engine, people, 1).value >= chosen - 1e-6
