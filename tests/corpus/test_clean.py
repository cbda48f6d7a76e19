import unicodedata

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.clean import clean, clean_all, fold_all

HOSTILE = st.text(" \u200b\x00\n\tae\u0301\xad\\'{}$\u1fef\u212b") | st.text(list("\\'\"{}$`cvoi% \u0301"), max_size=14)


@given(st.text() | HOSTILE)
def test_cleaning_gives_one_line_and_cleaning_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in once)


def test_cleaning_keeps_words_mathematics_and_accents():
    assert clean("  A\n  study of\t$x^2$ for Cafe\u0301\u200b and caf\\'e ") == "A study of $x^2$ for Café and café"


def test_control_characters_do_not_glue_words():
    assert clean("a\x00b\u200bc") == "a bc"


@given(st.lists(st.none() | st.text() | HOSTILE))
def test_many_texts_are_cleaned_as_each_alone(texts):
    assert clean_all(pl.Series(texts, dtype=pl.String)).to_list() == [clean(text or "") for text in texts]


@given(st.lists(st.text()))
def test_folded_texts_are_equal_where_only_case_differs(texts):
    assert fold_all(pl.Series(texts, dtype=pl.String)).to_list() == [
        text.lower() if text.isascii() and "\\" not in text else text.casefold() for text in texts
    ]
    assert fold_all(pl.Series(["STRASSE", "Straße"])).n_unique() == 1
