import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.budget import SHARES, evenly_spread, measured_documents, tokens_read, validated_documents

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


def test_a_validation_measures_a_fifth_of_the_tokens_since_the_last_one_or_as_many_documents_as_the_setting_says():
    settings = {"batch_size": 16, "accumulate": 1, "block_size": 128, "steps": 500}

    def validated(every, documents=0):
        return len(validated_documents(Corpus(), settings | {"validate_every": every, "validate_documents": documents}))

    assert validated(100) == 0.2 * 100 * 16 * 128 / 20
    assert validated(0) == SIZES["valid"], "measured once, at the end"
    assert validated(1) == 200 and validated(1, documents=1000) == 1000 and validated(1, documents=10**6) == 5000


@given(st.integers(0, 200), st.integers(1, 50))
def test_evenly_spread_indices_have_both_ends_and_no_number_twice(size, most):
    found = evenly_spread(size, most)
    assert len(set(found.tolist())) == len(found) == min(size, most)
    assert found.tolist() == sorted(found.tolist())
    assert not size or (found[0] == 0 and (most == 1 or found[-1] == size - 1))
