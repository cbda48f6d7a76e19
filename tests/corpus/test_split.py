import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.split import split
from titlesmith.errors import RequestError


def days(count: int) -> np.ndarray:
    return np.arange(count) * 37 % count


@given(st.integers(20, 300), st.sampled_from(["date", "random"]), st.integers(0, 99))
def test_every_paper_is_in_one_split_and_shares_are_kept(count, order, seed):
    where = split(days(count), [0.8, 0.1, 0.1], order, seed)
    train, valid, test = np.bincount(where)
    assert train + valid + test == count
    assert abs(train - 0.8 * count) <= 1 and abs(valid - 0.1 * count) <= 1
    assert (where == split(days(count), [0.8, 0.1, 0.1], order, seed)).all()


@given(st.lists(st.integers(0, 50), min_size=20))
def test_by_date_the_model_learns_from_the_past(published):
    published = np.array(published)
    where = split(published, [0.8, 0.1, 0.1], "date", 0)
    assert published[where == 0].max() <= published[where == 1].min()
    assert published[where == 1].max() <= published[where == 2].min()


def test_at_random_the_seed_decides():
    one, two = (split(days(100), [0.8, 0.1, 0.1], "random", seed) for seed in (1, 2))
    assert (one != two).any()


def test_an_empty_split_is_refused():
    with pytest.raises(RequestError, match="leave valid empty"):
        split(days(5), [0.98, 0.01, 0.01], "date", 0)
