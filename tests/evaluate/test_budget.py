import numpy as np

from titlesmith.evaluate.budget import SHARES, measured_documents, tokens_read

SIZES = {"train": 90_000, "valid": 5000, "test": 5000}


class Corpus:
    """Splits of documents of 20 tokens each."""

    def documents(self, name):
        documents = type("Documents", (), {"__len__": lambda self: SIZES[name]})()
        documents.ids = np.zeros(20 * SIZES[name], np.uint16)
        return documents


def counts(maximum, trained):
    return {name: len(chosen) for name, chosen in measured_documents(Corpus(), maximum, trained).items()}


def test_a_fifth_of_the_tokens_that_training_read_is_measured():
    assert sum(SHARES.values()) <= 0.2
    trained = tokens_read({"batch_size": 16, "accumulate": 2, "block_size": 128}, 250)
    assert trained == 250 * 16 * 2 * 128
    found = counts(0, trained)
    assert 20 * sum(found.values()) <= 0.2 * trained and found["test"] > found["valid"] > found["train"] > 200
    assert counts(0, 1000) == dict.fromkeys(SIZES, 200), "an interval needs some documents"
    assert counts(0, 10**9) == SIZES


def test_a_maximum_that_is_set_is_of_training_documents():
    assert counts(2000, 1000) == SIZES | {"train": 2000}
