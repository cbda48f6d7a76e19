import math

import numpy as np
import pytest

from evaluate.test_evaluate import ROW, made, measured
from titlesmith.evaluate.held_out import documents_at
from titlesmith.evaluate.losses import bits_per_byte, measured_bytes


def test_bits_are_nats_divided_by_ln_2_and_bytes_are_of_utf_8():
    measurement = bits_per_byte(np.array([8 * math.log(2), 4 * math.log(2)]), np.array([3, 1]), 1)
    assert measurement.value == pytest.approx(12 / 4)
    assert measurement.interval[0] <= 3 <= measurement.interval[1]


def test_documents_of_a_run_are_measured_in_bytes_of_their_texts(project):
    run, corpus = made(project)
    metrics = measured(run, corpus, [ROW])
    for name in ("valid", "test"):
        texts, documents = corpus.table(name)["completion"], corpus.documents(name)
        bits = (len(documents.ids) - 1) * math.log2(len(corpus.tokenizer))
        assert metrics["bits_per_byte"][name] == pytest.approx(bits / sum(len(text.encode()) for text in texts))
        low, high = metrics["bits_per_byte_interval"][name]
        assert low <= metrics["bits_per_byte"][name] <= high


def test_of_a_text_that_is_cut_the_measured_part_counts(project):
    _, corpus = made(project)
    chosen = np.array([1, 3])
    texts = documents_at(corpus, "train", chosen)["completion"].to_list()
    assert measured_bytes(corpus, "train", chosen, 256).tolist() == [len(text.encode()) for text in texts]
    ids = corpus.documents("train")[1][:5]
    assert measured_bytes(corpus, "train", chosen, 5)[0] == len(corpus.tokenizer.decode(ids).encode())
