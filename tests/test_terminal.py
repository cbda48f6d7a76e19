import io
import json
import sys

import pytest

from titlesmith import cli, terminal
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError
from titlesmith.experiment import declared


def generate(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["titlesmith", "generate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_json_is_a_line_a_text_and_nothing_else(finished, monkeypatch, capsys):
    asked = ["small", "--prefix", "Neur", "--prefix", "", "-n", "2", "--max-tokens", "8", "--json", "--seed", "3"]
    assert generate(monkeypatch, *asked) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["prefix"] for row in rows] == ["Neur", "Neur", "", ""]
    assert all(row["text"].startswith(row["prefix"]) and list(row) == list(finished.texts[0]) for row in rows)
    assert "Neur: begins 0 of" in said.err and ", which is rare;" in said.err
    assert generate(monkeypatch, *asked) == 0
    assert capsys.readouterr().out == said.out, "the same seed"


def test_people_see_groups_and_marks(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--prefix", "a\tb", "-n", "1", "--max-tokens", "1", "--top-k", "1") == 0
    said = capsys.readouterr()
    assert said.out.startswith("\na b\n  a b") and said.out.endswith("  [unfinished]\n")
    assert "'a\\tb' is continued as 'a b'" in said.err


def test_a_run_s_own_settings_are_the_defaults(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == finished.texts, "what notebook 04 drew"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["none"], "there is no run none; there are small"),
        (["small", "--temperature", "0"], "generate.temperature: 0.0 is out of range"),
        (["small", "--top-k", "many"], "generate.top_k: 'many' is no int"),
        (["small", "--beams", "4", "-n", "5"], "5 texts of 4 beams"),
        (["small", "--title", "x"], "run small writes {title} from no prompt: it takes no title. Give a beginning"),
        (["small", "--abstract", "nowhere.txt"], "--abstract nowhere.txt cannot be read"),
        (["small", "--field", "year"], "--field year: it needs the form key=value"),
        (["small", "--prefix", "word " * 2000], "exceeded: shorten what is given"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(finished, monkeypatch, capsys, arguments, said):
    assert generate(monkeypatch, *arguments) == 2
    found = capsys.readouterr()
    assert said in found.err and not found.out


def test_an_unknown_option_is_refused(finished, monkeypatch, capsys):
    assert generate(monkeypatch, "small", "--temprature", "1") == 2


def test_every_parameter_of_the_notebook_is_an_option(project, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert generate(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for name in declared("generate"):
        if name not in terminal.OWN:
            assert f"--{name.replace('_', '-')} " in shown
    assert "--prefix" in shown and "-n " in shown


def test_fields_are_those_of_the_template():
    terminal.check_fields(template("title-to-abstract"), {"title": "x"}, "r")
    for fields, said in [
        ({"abstract": "x"}, "from title: it takes no abstract; title is missing: --title TEXT"),
        ({"title": "x", "year": "2024"}, "it takes no year"),
    ]:
        with pytest.raises(RequestError, match=said):
            terminal.check_fields(template("title-to-abstract"), fields, "r")
    with pytest.raises(RequestError, match="category is missing: --field category=TEXT"):
        terminal.check_fields(template("category-title-to-abstract"), {"title": "x"}, "r")


def test_an_abstract_comes_from_a_file_or_from_standard_input(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Schön.\n", "utf-8")
    assert terminal.read(str(tmp_path / "a.txt")) == "Schön.\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Grün.".encode())))
    assert terminal.read("-") == "Grün."
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(RequestError, match="as text in UTF-8"):
        terminal.read(str(tmp_path / "a.txt"))
