import pytest

from generate.test_generator import Small
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError
from titlesmith.generate.prompts import Request, check, held_out, plain, requests

SETTINGS = {"prefixes": ["", "We"], "prompts": [], "held_out": 2, "count": 1, "max_tokens": 24}
SETTINGS |= {"beams": 1, "best_of": 1, "min_tokens": 0}


def test_each_prompt_is_completed_from_each_prefix():
    corpus = Small(name="category-title-to-abstract", test=["a", "b", "c", "d", "e"])
    given = {"category": "eess.AS", "title": " Deep\nlearning "}
    assert requests(corpus, SETTINGS | {"prompts": [given]}) == [
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
