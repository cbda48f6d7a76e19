from hypothesis import given
from hypothesis import strategies as st

from generate.test_generator import Small
from titlesmith.generate.relevance import relevance

TRAINING = (
    ["Speech recognition for Music"] * 30
    + ["Musical speakers"] * 25
    + ["Music <x> $y$ (z)"] * 3
    + ["Übersetzung"]
    + ["Wavelets"] * 300
)


def test_counts_are_those_of_beginnings_and_of_complete_words():
    speech, music, both = relevance(Small(TRAINING), ["speech", "Music ", "Music speech", "", "  "])
    assert (speech.of, speech.begins, speech.holds, speech.near) == (359, 30, 30, [])
    assert (music.begins, music.holds) == (3, 33)
    assert music.near == ["musical (25)"]
    assert (both.begins, both.holds) == (0, 30)
    assert str(music) == (
        "Music : 3 of 359 training texts begin with it, 33 have its words; similar frequent words: musical (25)"
    )
    assert str(speech) == "speech: 30 of 359 training texts begin with it, 30 have its words"


def test_a_rare_prefix_begins_few_texts_and_a_small_share_of_them():
    for begins, others, rare in [(11, 2224, True), (19, 2216, True), (20, 9999, False), (14, 94, False), (0, 94, True)]:
        (found,) = relevance(Small(["Music"] * begins + ["Musik"] * others), ["Music"])
        assert (found.begins, bool(found.near)) == (begins, rare), "near words are shown for rare prefixes"


def test_a_prefix_is_looked_up_as_it_is_continued():
    (found,) = relevance(Small(TRAINING), ["Speech\nrecognition"])
    assert (found.prefix, found.begins) == ("Speech recognition", 30)


def test_near_words_share_letters_and_are_frequent():
    (found,) = relevance(Small(TRAINING), ["Speach of ubersetzung"])
    assert found.near == ["speech (30)", "speakers (25)"], "the others are in fewer than 20 texts"


def test_signs_are_looked_up_as_they_are():
    (found,) = relevance(Small(TRAINING), ["<"])
    assert (found.begins, found.holds) == (0, 3)
    (found,) = relevance(Small(TRAINING), ["Ü"])
    assert (found.begins, found.holds) == (1, 0)


@given(st.lists(st.text(), max_size=3))
def test_any_prefix_is_looked_up(prefixes):
    for found in relevance(Small(TRAINING), prefixes):
        assert found.begins <= found.of and str(found)
        assert set(vars(found)) == {"prefix", "begins", "holds", "of", "near"}
