import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.test_generator import Small
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError
from titlesmith.generate.prompts import Request, check, held_out, plain, relevance, requests

SETTINGS = {"prefixes": ["", "We"], "prompts": [], "held_out": 2, "count": 1, "max_tokens": 24}
SETTINGS |= {"beams": 1, "best_of": 1, "min_tokens": 0}


def test_each_prompt_is_completed_from_each_prefix():
    corpus = Small(name="category-title-to-abstract", test=["a", "b", "c", "d", "e"])
    fields = {"category": "eess.AS", "title": " Deep\nlearning "}
    assert requests(corpus, SETTINGS | {"prompts": [fields]}) == [
        Request(prompt, prefix, paper)
        for prompt, paper in [("<|eess.AS|> Deep learning", None), ("a", "0"), ("c", "2")]
        for prefix in ("", "We")
    ]
    assert requests(Small(test=["a"]), SETTINGS) == [Request("", ""), Request("", "We")]


def test_held_out_papers_are_spread_and_leave_room():
    corpus = Small(name="title-to-abstract", test=["long " * 40, "b", "c", "d"])
    assert held_out(corpus, 3, 24) == [("b", "1"), ("c", "2"), ("d", "3")] == held_out(corpus, 9, 24)
    assert held_out(corpus, 0, 24) == []
    with pytest.raises(RequestError, match=r"room for 99 tokens .* context of 100; the shortest prompt has 1"):
        held_out(corpus, 1, 99)


@pytest.mark.parametrize(
    "name, changes, match",
    [
        ("title", {"prompts": [{"title": "x"}]}, "has no prompt; use prefixes"),
        ("title-to-abstract", {"prompts": [{"titel": "x"}]}, "needs title; given is titel"),
        ("title-to-abstract", {"prompts": [{}]}, "given is nothing"),
        ("title-to-abstract", {"held_out": 0}, "there is nothing to complete: the template needs title"),
        ("title", {"beams": 4, "count": 5}, "5 texts of 4 beams"),
    ],
)
def test_prompts_that_do_not_fit_the_template_are_an_error(name, changes, match):
    check(template(name), SETTINGS)
    with pytest.raises(RequestError, match=match):
        check(template(name), SETTINGS | changes)


def test_a_prefix_is_one_line():
    assert plain("a\n\tb\u00a0\x07c\u2028") == "a  b  c "
    with pytest.raises(RequestError, match=r"'bad\\xff' is not valid UTF-8"):
        plain("bad\udcff")


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
