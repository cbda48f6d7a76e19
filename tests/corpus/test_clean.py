import unicodedata
from datetime import date

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.clean import clean, select


@given(st.text())
def test_cleaning_gives_one_line_and_cleaning_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert once == " ".join(once.split())
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in once)


def test_cleaning_keeps_words_mathematics_and_accents():
    assert clean("  A\n  study of\t$x^2$ for Cafe\u0301\u200b ") == "A study of $x^2$ for Café"


def test_papers_are_dropped_by_reason_and_the_older_of_two_stays():
    papers = pl.DataFrame(
        {
            "id": ["1", "2", "2", "3", "4"],
            "title": ["One", "Two", "Other", " ONE ", None],
            "published": [date(2020, 1, d) for d in range(1, 6)],
        }
    )
    kept, dropped = select(papers, ["title"])
    assert kept["title"].to_list() == ["One", "Two"]
    assert {reason: found["papers"] for reason, found in dropped.items()} == {
        "no title": 1,
        "same id": 1,
        "same title": 1,
    }
    assert dropped["same title"]["examples"] == ["ONE"]
