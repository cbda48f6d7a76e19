from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.harvest import sample
from titlesmith.harvest.schema import Faults


def made(count: int, seed: int):
    return next(sample.read({"num_papers": count, "seed": seed}, Path(), Faults()))


@settings(max_examples=10, deadline=None)
@given(st.integers(50, 500), st.integers(0, 10**6))
def test_as_many_as_asked_distinct_and_the_same_for_the_same_seed(count, seed):
    papers = made(count, seed)
    assert papers.height == papers["id"].n_unique() == papers["title"].n_unique() == count
    assert papers.equals(made(count, seed))
    assert not papers["title"].equals(made(count, seed + 1)["title"])


def test_labelled_as_made_up():
    papers = made(50, 1)
    assert papers["id"].str.starts_with("sample.").all()
    assert papers["primary_category"].str.starts_with("made-up.").all()
    assert papers["comments"].str.contains("no real paper").all()


def test_prefixes_of_the_sample_experiment_occur():
    titles = made(2500, 1)["title"]
    assert titles.str.starts_with("Neural ").sum() > 50
    assert titles.str.starts_with("Music ").sum() > 20


def test_nothing_of_the_grammar_is_left_in_the_text():
    papers = made(500, 2)
    for column in ("title", "abstract"):
        assert not papers[column].str.contains(r"[{}|]").any()
