import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from titlesmith.errors import RequestError
from titlesmith.harvest import alpaca, check, harvest
from titlesmith.harvest.schema import Faults
from titlesmith.runs import Run

ALL = {"source": "alpaca", "path": "a.json", "categories": [], "since": "", "until": "", "max_results": 0}
ALL |= {"encoding": "utf-8"}
GOOD = [
    {"instruction": "Write a title.", "input": f"We show {n} that {{x}} [y],\n", "output": f"Title {n}"}
    for n in range(9)
]


def papers(project, content: str | bytes):
    (project / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    run = Run("r")
    run.begin("harvest", {})
    return harvest(run, ALL)


FORMS = {
    "list": json.dumps,
    "indented list": lambda rows: json.dumps(rows, indent=4, ensure_ascii=False),
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
}


@pytest.mark.parametrize("form", FORMS)
def test_input_becomes_abstract_and_output_title(project, form):
    found = papers(project, FORMS[form](GOOD))
    assert not found.faults
    table = found.scan().select("id", "abstract", "title", "instruction").collect()
    assert table.rows() == [
        (f"row.{n:07d}", row["input"], row["output"], "Write a title.") for n, row in enumerate(GOOD, 1)
    ]


text = st.text(st.characters(codec="utf-8"), max_size=30)
rows = st.lists(st.fixed_dictionaries({"input": text, "output": text, "instruction": text}), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from(sorted(FORMS)), st.sampled_from([400, 1000]))
def test_what_was_written_is_read(tmp_path_factory, rows, form, ahead):
    folder, faults = tmp_path_factory.mktemp("a"), Faults()
    (folder / "a.json").write_text(FORMS[form](rows), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alpaca, "AHEAD", ahead * 3)
        found = list(alpaca.read(ALL | {"path": str(folder / "a.json")}, folder, faults))
    read = [row for table in found for row in table.select("abstract", "title", "instruction").rows()]
    assert read == [(row["input"], row["output"], row["instruction"]) for row in rows]
    assert not faults


@pytest.mark.parametrize("bad", [{"input": "a"}, {"input": "a", "output": 3}, {"input": ["a"], "output": "b"}])
@pytest.mark.parametrize("form", FORMS)
def test_an_object_without_texts_is_counted(project, form, bad):
    found = papers(project, FORMS[form]([*GOOD[:4], bad, *GOOD[4:]]))
    assert found.counts["kept"] == 9
    (entry,) = found.faults.values()
    assert entry["rows"] == 1
    assert entry["examples"][0].startswith("a.json: {")


@pytest.mark.parametrize(
    ("original", "damaged"), [('"Title 4"', '"Title 4'), ('"Title 4"}', '"Title 4"'), ('"We show 4', "")]
)
@pytest.mark.parametrize("form", FORMS)
def test_an_object_that_cannot_be_parsed_does_not_stop_the_rest(project, form, original, damaged):
    text = FORMS[form](GOOD)
    found = papers(project, text.replace(original if original in text else '"Title 4"\n    }', damaged))
    titles = found.scan().collect()["title"].to_list()
    assert titles == [f"Title {n}" for n in range(9) if n != 4]
    assert sum(entry["rows"] for entry in found.faults.values()) == 1


@pytest.mark.parametrize("given", [{}, {"input": None}])
def test_an_instruction_needs_no_input(project, given):
    found = papers(project, json.dumps([{"instruction": "Write a title.", "output": "One"} | given]))
    assert found.scan().select("title", "abstract", "instruction").collect().rows() == [("One", "", "Write a title.")]
    assert not found.faults


def test_a_cut_list_loses_only_its_last(project):
    found = papers(project, json.dumps(GOOD)[:-9])
    assert found.counts["kept"] == 8
    assert [entry["rows"] for entry in found.faults.values()] == [1]


def test_characters_that_are_none_are_counted_and_their_paper_stays(project):
    content = FORMS["lines"](GOOD).encode().replace(b"Title 2", b"Title \xff").replace(b"Title 3", b"Title \\ud83d")
    found = papers(project, content)
    assert found.scan().collect()["title"].to_list()[2:4] == ["Title \ufffd", "Title ?"]
    (entry,) = found.faults.values()
    assert entry["rows"] == 1 and entry["examples"][0].startswith("row.0000003: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<!DOCTYPE html>\n<html></html>", "is not a file for source alpaca: it has no rows"),
        ('[{"title": "One"}]', "is not a file for source alpaca"),
        ("[]", "it has no rows"),
        ("", "is missing or empty"),
    ],
)
def test_other_files_are_refused_at_once(project, content, said):
    (project / "a.json").write_text(content)
    with pytest.raises(RequestError) as error:
        check(ALL)
    assert said in str(error.value)
