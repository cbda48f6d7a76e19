import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith.corpus.clean import JOINERS, VISIBLE, clean

HOSTILE = st.text(" \u200b\u200c\u200d\u202e\x00\n\tae\u0301\xad\\'{}$\u1fef\u212b") | st.text(
    list("\\'\"{}$`cvoi% \u0301"), max_size=14
)


@given(st.text() | HOSTILE)
def test_cleaning_gives_one_line_and_cleaning_again_changes_nothing(text):
    once = clean(text)
    assert clean(once) == once
    assert once == " ".join(once.split()) == unicodedata.normalize("NFC", once)
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in once if c not in VISIBLE | set(JOINERS))
    assert not any(word[0] in JOINERS for word in once.split())


def test_cleaning_keeps_words_mathematics_and_accents():
    assert clean("  A\n  study of\t$x^2$ for Cafe\u0301\u200b and caf\\'e ") == "A study of $x^2$ for Café and café"


def test_control_characters_do_not_glue_words():
    assert clean("a\x00b\u200bc") == "a b c"


@pytest.mark.parametrize(
    "text", ["\u0645\u06cc\u200c\u062e\u0648", "\u0915\u094d\u200d\u0937", "\U0001f468\u200d\U0001f469", "\u0601\u0661"]
)
def test_format_characters_that_carry_meaning_stay(text):
    assert clean(text) == text


@pytest.mark.parametrize("removed", ["\u202e", "\u2066", "\u200f", "\u061c", "\xad", "\ufeff", "\u2060", "\U000e0041"])
def test_other_format_characters_are_removed(removed):
    assert clean(f"a{removed}b") == "ab" and clean(f"a {removed} b {removed}") == "a b"


def test_joiners_that_join_nothing_are_removed():
    assert clean("\u200d \u200ca b \u200c\u200d") == "a b"
