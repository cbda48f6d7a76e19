from hypothesis import given
from hypothesis import strategies as st

from test_texts import Small
from titlesmith.relevance import RARE, relevance

TRAINING = (
    ["Speech recognition for Music"] * 30 + ["Musical speakers"] * 25 + ["Music <x> $y$ (z)"] * 3 + ["Übersetzung"]
)


def test_counts_are_those_of_beginnings_and_of_whole_words():
    speech, music, both = relevance(Small(TRAINING), ["speech", "Music ", "Music speech", "", "  "])
    assert (speech.texts, speech.begins, speech.holds, speech.is_rare, speech.near) == (59, 30, 30, False, [])
    assert (music.begins, music.holds, music.is_rare) == (3, 33, True)
    assert music.near == [("musical", 25)]
    assert (both.begins, both.holds) == (0, 30)
    assert str(music) == (
        "Music : begins 3 of 59 training texts, which is rare; 33 have its words; frequent words near it: musical (25)"
    )


def test_near_words_share_letters_and_are_frequent():
    (found,) = relevance(Small(TRAINING), ["Speach of ubersetzung"])
    assert found.near == [("speech", 30), ("speakers", 25)]
    assert all(count >= RARE for _, count in found.near)


def test_signs_are_looked_up_as_they_are():
    (found,) = relevance(Small(TRAINING), ["<"])
    assert (found.begins, found.holds) == (0, 3)
    (found,) = relevance(Small(TRAINING), ["Ü"])
    assert (found.begins, found.holds) == (1, 0)


@given(st.lists(st.text(), max_size=3))
def test_any_prefix_is_looked_up(prefixes):
    for found in relevance(Small(TRAINING), prefixes):
        assert found.begins <= found.texts and str(found)
        assert set(found.row) == {"prefix", "begins", "holds", "of", "near"}
