import unicodedata
from datetime import date

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.clean import clean, select


@given(st.text() | st.text(" \u200b\x00\n\tae\u0301\xad"))
def test_cleaning_gives_one_line_and_cleaning_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
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
    kept, dropped = select(papers, ["title"], dated=True)
    assert kept["title"].to_list() == ["One", "Two"]
    counts = {reason: found["papers"] for reason, found in dropped.items()}
    assert counts == {"no date": 0, "no title": 1, "same id": 1, "same title": 1}
    assert dropped["same title"]["examples"] == ["ONE"]


def test_papers_without_a_date_are_dropped_where_the_date_decides():
    papers = pl.DataFrame({"id": ["1", "2"], "title": ["One", "one"], "published": [None, date(2020, 1, 1)]})
    assert select(papers, ["title"], dated=True)[0]["id"].to_list() == ["2"]
    assert select(papers, ["title"], dated=False)[0]["id"].to_list() == ["1"]


def test_control_characters_do_not_glue_words():
    assert clean("a\x00b\u200bc") == "a bc"
