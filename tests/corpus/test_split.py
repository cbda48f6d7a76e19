from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.split import split
from titlesmith.errors import RequestError


def papers(count: int) -> pl.DataFrame:
    days = [date(2020, 1, 1) + timedelta(days=(i * 37) % count) for i in range(count)]
    return pl.DataFrame({"id": [f"{i:04d}" for i in range(count)], "published": days})


@given(st.integers(20, 300), st.sampled_from(["date", "random"]), st.integers(0, 99))
def test_every_paper_is_in_one_split_and_shares_are_kept(count, order, seed):
    cut = split(papers(count), [0.8, 0.1, 0.1], order, seed)
    assert sorted(pl.concat(cut.values())["id"]) == sorted(papers(count)["id"])
    assert abs(cut["train"].height - 0.8 * count) <= 1
    assert abs(cut["valid"].height - 0.1 * count) <= 1
    again = split(papers(count), [0.8, 0.1, 0.1], order, seed)
    assert all(cut[name].equals(again[name]) for name in cut)


def test_by_date_the_model_learns_from_the_past():
    cut = split(papers(100), [0.8, 0.1, 0.1], "date", 0)
    assert cut["train"]["published"].max() <= cut["valid"]["published"].min()
    assert cut["valid"]["published"].max() <= cut["test"]["published"].min()


def test_at_random_the_seed_decides():
    one, two = (split(papers(100), [0.8, 0.1, 0.1], "random", seed)["test"]["id"].to_list() for seed in (1, 2))
    assert one != two


def test_an_empty_split_is_refused():
    with pytest.raises(RequestError, match="leave valid empty"):
        split(papers(5), [0.98, 0.01, 0.01], "date", 0)
