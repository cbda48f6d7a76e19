from datetime import date

import polars as pl
import pytest

from titlesmith.corpus.template import TEMPLATES, Template, check_fields, template
from titlesmith.errors import RequestError

PAPER = pl.DataFrame(
    {
        "id": ["1"],
        "title": ["On {braces}"],
        "abstract": ["We study."],
        "authors": [["A. Author", "B. Author"]],
        "primary_category": ["cs.CL"],
        "published": [date(2019, 5, 1)],
        "paper.topic": ["speech"],
        "0": ["zero"],
        "a:b!r": ["A"],
        "x[0]": ["X"],
    }
)


def format(chosen: Template, papers: pl.DataFrame = PAPER) -> dict:
    (row,) = chosen.format(papers.select(**chosen.columns(papers.schema))).select("prompt", "completion").to_dicts()
    return row


@pytest.mark.parametrize(
    ("name", "prompt", "completion"),
    [
        ("title", "", "On {braces}"),
        ("year-title", "2019", "On {braces}"),
        ("title-to-abstract", "On {braces}", "We study."),
        ("category-title-to-abstract", "<|cs.CL|> On {braces}", "We study."),
        ("{title} -> {abstract}", "On {braces}", "We study."),
        ("<|{subject}|> {title} -> {abstract}", "<|CL|> On {braces}", "We study."),
        ("{title} -> {authors} -> {year}: {abstract}", "On {braces} -> A. Author, B. Author", "2019: We study."),
        ("{{{category}}} {title}", "", "{cs.CL} On {braces}"),
        ("{paper.topic}: {0} {a:b!r} {x[0]} -> {title}", "speech: zero A X", "On {braces}"),
        ("Title:\n{title} -> {published}", "Title:\nOn {braces}", "2019-05-01"),
    ],
)
def test_templates(name, prompt, completion):
    chosen = template(name)
    assert format(chosen) == {"prompt": prompt, "completion": completion}
    fields = {name: str(value) for name, value in PAPER.row(0, named=True).items()}
    fields |= {"authors": "A. Author, B. Author", "category": "cs.CL", "subject": "CL", "year": "2019"}
    assert chosen.fill_prompt(fields) == prompt, "one prompt for training, generation and the app"
    assert chosen.fill_prompt(chosen.read(prompt)) == prompt


def test_an_instruction_holds_the_abstract():
    row = format(template("abstract-to-title"))
    assert "We study." in row["prompt"] and row["completion"] == "On {braces}"


def test_chatgentitle_asks_as_alpaca_lora_does():
    # The bytes that alpaca-lora's prompter makes of ChatGenTitle's published instruction and an input
    expected = (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write "
        "a response that appropriately completes the request.\n\n### Instruction:\nIf you are an expert in writing "
        "papers, please generate a good paper title for this paper based on other authors' descriptions of their "
        "abstracts.\n\n### Input:\nWe study.\n\n### Response:\n"
    )
    chosen = template("chatgentitle")
    assert format(chosen)["prompt"] + "\n" == chosen.fill_prompt({"abstract": "We study."}) + "\n" == expected
    # A record's instruction is used where there is one
    papers = pl.concat(
        [PAPER.with_columns(instruction=pl.lit(text)) for text in ("Write a title!", " ", None)], how="vertical_relaxed"
    )
    rows = chosen.format(papers.select(**chosen.columns(papers.schema)))["prompt"].to_list()
    assert rows[0].replace("Write a title!", "If you are an expert", 1) in expected.replace(
        expected[expected.index(" in writing") : expected.index("\n\n### Input")], ""
    )
    assert [row + "\n" for row in rows[1:]] == [expected] * 2
    assert chosen.required_fields == ["abstract"]


def test_a_column_of_the_papers_comes_before_a_derived_field():
    assert format(template("{category}"), PAPER.with_columns(category=pl.lit("horror")))["completion"] == "horror"


@pytest.mark.parametrize("name", TEMPLATES)
def test_completions_are_one_line(name):
    assert "\n" not in TEMPLATES[name].completion


def test_an_unknown_template_is_refused():
    with pytest.raises(RequestError, match="no template 'titel'; there are title, "):
        template("titel")


@pytest.mark.parametrize(
    "text", ["{title} -> nothing", "{} -> {title}", "{title", "title}", "{a{title}}", "{abstract} -> a\n{title}"]
)
def test_an_invalid_template_is_an_error(text):
    with pytest.raises(RequestError, match=r"corpus\.template: "):
        template(text)


def test_a_field_that_papers_lack_is_refused_with_the_nearest():
    with pytest.raises(RequestError, match=r"no field 'abstrakt'\. Did you mean abstract"):
        check_fields(template("{title} -> {abstrakt}"), PAPER.columns)
    with pytest.raises(RequestError, match="no field 'synopsis'"):
        format(template("{synopsis}"))
