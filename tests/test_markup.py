import pytest

from titlesmith import markup
from titlesmith.markup import ENVIRONMENT, Markup


def rendered(name, source, **values):
    """A template with this source; its name decides how values are escaped."""
    return (
        ENVIRONMENT.from_string(source)
        .__class__.from_code(ENVIRONMENT, ENVIRONMENT.compile(source, name, name), ENVIRONMENT.make_globals(None))
        .render(values)
    )


def test_values_are_escaped_for_the_kind_of_the_template():
    value = "<b> {{ 7*7 }}\n\n# *x*"
    assert rendered("a.md.j2", "{{ value }}", value=value) == r"\<b\> \{\{ 7\*7 \}\} \# \*x\*"
    assert rendered("a.html.j2", "{{ value }}", value=value) == "&lt;b&gt; {{ 7*7 }} # *x*"
    for name in ("a.md.j2", "a.html.j2"):
        assert rendered(name, "{{ value }}", value=Markup("<b>")) == "<b>"


def test_the_values_of_an_included_template_are_escaped_for_its_own_kind():
    text = markup.render("quiz.html.j2", items=[{"text": "*a* <b>", "real": True, "note": "c"}])
    assert "*a* &lt;b&gt;" in text and "\n" not in text


def test_a_missing_value_is_an_error():
    with pytest.raises(KeyError, match="undefined"):
        markup.render("run.md.j2")


def test_numbers_are_shown_for_people():
    assert [markup.number(value) for value in (None, 1.234, 1234.5)] == ["-", "1.23", "1,234"]
    assert [markup.percent(value) for value in (None, 0.256)] == ["-", "26%"]
    assert [markup.duration(value) for value in (None, 90, 600, 9000)] == ["-", "90 s", "10 min", "2.5 h"]
    assert markup.day("2024-02-03T10:00:00") == "3 February 2024"


def test_ids_of_arxiv_are_links_and_other_numbers_are_not():
    shown = markup.link_papers("paper 2001.00001v2, cs/0101001 & <b> 1.5, 12001.000012, sample.00005")
    assert shown.count("<a ") == 2 and "&lt;b&gt;" in shown
    assert '<a href="https://arxiv.org/abs/2001.00001v2">2001.00001v2</a>' in shown
    assert '<a href="https://arxiv.org/abs/cs/0101001">cs/0101001</a>' in shown


def test_control_characters_become_replacement_characters():
    assert rendered("a.xml.j2", "<a>{{ value }}</a>", value="a\x12b\0\n<") == "<a>a\ufffdb\ufffd &lt;</a>"
