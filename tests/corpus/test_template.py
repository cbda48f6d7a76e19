from datetime import date

import polars as pl
import pytest

from titlesmith.corpus.template import TEMPLATES, add_fields, template
from titlesmith.errors import RequestError

PAPER = pl.DataFrame(
    {
        "id": ["1"],
        "title": ["On {braces}"],
        "abstract": ["We study."],
        "primary_category": ["cs.CL"],
        "published": [date(2019, 5, 1)],
    }
)


@pytest.mark.parametrize(
    ("name", "prompt", "completion"),
    [
        ("title", "", "On {braces}"),
        ("year-title", "2019", "On {braces}"),
        ("title-to-abstract", "On {braces}", "We study."),
        ("category-title-to-abstract", "<|cs.CL|> On {braces}", "We study."),
    ],
)
def test_templates(name, prompt, completion):
    (row,) = template(name).format(add_fields(PAPER)).iter_rows(named=True)
    assert (row["prompt"], row["completion"]) == (prompt, completion)
    assert list(row) == ["id", "prompt", "completion", "published"]


def test_an_instruction_holds_the_abstract():
    (row,) = template("abstract-to-title").format(add_fields(PAPER)).iter_rows(named=True)
    assert "We study." in row["prompt"] and row["completion"] == "On {braces}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_completions_are_one_line(name):
    assert "\n" not in TEMPLATES[name].completion


def test_an_unknown_template_is_refused():
    with pytest.raises(RequestError, match="no template 'titel'; there are title, "):
        template("titel")
