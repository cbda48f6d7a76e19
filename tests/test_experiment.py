import subprocess
import sys
from datetime import date

import pytest

from titlesmith.errors import RequestError
from titlesmith.experiment import Experiment, declared, find, fits
from titlesmith.runs.record import STAGES, root

SAMPLE = "experiments/sample-titles.yml"


def read(project, *overrides: str, text: str = "") -> Experiment:
    path = project / SAMPLE
    if text:
        path = project / "e.yml"
        path.write_text(text)
    return Experiment.read(path, overrides)


@pytest.mark.parametrize("stage", STAGES)
def test_every_default_is_allowed_and_every_parameter_has_help(stage):
    for p in declared(stage).values():
        assert p.check(p.default) == p.default
        assert len(p.help) > 10, p


def test_sections_defaults_and_overrides_come_together(project):
    e = read(project, "finetune.steps=7", "generate.prefixes=Deep,Music", "seed=3", "harvest.since=2020-01-01")
    assert e.settings["finetune"]["steps"] == 7
    assert e.settings["generate"]["prefixes"] == ["Deep", "Music"]
    assert {e.settings[s]["seed"] for s in STAGES if "seed" in e.settings[s]} == {3}
    assert e.settings["harvest"]["since"] == "2020-01-01"
    assert e.settings["finetune"]["loss_floor"] == 0.1
    assert e.name == "sample-titles"


def test_numbers_as_people_write_them(project):
    assert read(project, "finetune.learning_rate=1e-4").settings["finetune"]["learning_rate"] == 1e-4
    assert read(project, text="finetune: {learning_rate: 5e-5}").settings["finetune"]["learning_rate"] == 5e-5
    assert read(project, text="model: scratch\nfinetune:\n").settings["finetune"]["steps"] == 250


@pytest.mark.parametrize("text", ["{title: name, abstract: synopsis}", "title: name, abstract: synopsis"])
def test_mappings_from_the_command_line_and_from_a_file(project, text):
    mapping = {"title": "name", "abstract": "synopsis"}
    assert read(project, f"harvest.columns={text}").settings["harvest"]["columns"] == mapping
    written = "harvest: {columns: {title: name, abstract: synopsis}}"
    assert read(project, text=written).settings["harvest"]["columns"] == mapping


def test_a_path_is_taken_as_the_shell_sees_it(project, archive, monkeypatch):
    (project / "below").mkdir()
    monkeypatch.chdir(project / "below")
    settings = read(project, "harvest.source=archive", f"harvest.path=../{archive.name}").settings
    assert settings["harvest"]["path"] == archive.name


def test_dates_in_the_wrong_order_are_refused(project):
    with pytest.raises(RequestError, match=r"2021-01-01 is after harvest\.until, 2020-01-01"):
        read(project, "harvest.since=2021-01-01", "harvest.until=2020-01-01")


def test_a_notebook_that_cannot_be_read_is_named(project, monkeypatch):
    (project / "notebooks" / "02_corpus.ipynb").write_text("{")
    declared.cache_clear()
    with pytest.raises(RequestError, match=r"02_corpus\.ipynb: its parameters cannot be read"):
        declared("corpus")
    declared.cache_clear()


def test_yaml_dates_and_whole_numbers_become_what_notebooks_take(project):
    e = read(project, text="harvest: {since: 2020-01-02}\nfinetune: {loss_floor: 0}\n")
    assert e.settings["harvest"]["since"] == date(2020, 1, 2).isoformat()
    assert repr(e.settings["finetune"]["loss_floor"]) == "0.0"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.stps=3", ["finetune.stps is unknown", "did you mean steps?"]),
        ("finetun.steps=3", ["section finetun is unknown", "did you mean finetune?"]),
        ("modle=124M", ["modle is unknown", "did you mean model?"]),
        ("finetune.steps", ["section.key=value"]),
        ("finetune.steps=0", ["finetune.steps: 0 is out of range", "in [1, inf)"]),
        ("finetune.steps=1.5", ["1.5 is no int"]),
        ("finetune.steps=many", ["'many' is no int"]),
        ("finetune.steps=true", ["True is no int"]),
        ("finetune.steps=[", ["finetune.steps: '[' is no int"]),
        ("finetune.learning_rate=0", ["finetune.learning_rate: 0.0 is out of range", "in (0, 1]"]),
        ("finetune.learning_rate=.nan", ["nan is out of range"]),
        ("finetune.schedule=cosin", ["Did you mean cosine?", "constant, linear, cosine"]),
        ("generate.temperature=0", ["generate.temperature: 0.0 is out of range", "in (0, 10]"]),
        ("generate.temperature=-1", ["-1.0 is out of range"]),
        ("generate.prefixes=", ["generate.prefixes: [] is empty", "not empty"]),
        ("generate.prefixes=1,2", ["is no list[str]"]),
        ("generate.top_p=1.5", ["in (0, 1]"]),
        ("generate.max_tokens=256", ["exceed the model's context of 256"]),
        ("generate.prefixes=" + "word " * 300, ["behind a prefix of 300 words exceed the model's context of 256"]),
        ("finetune.block_size=512", ["exceeds the model's context of 256"]),
        ("corpus.model=124M", ["'124M' and 'scratch'", "once, at the top"]),
        ("corpus.split=0.5,0.4,0.4", ["sums to 1.3", "sum 1"]),
        ("corpus.split=1.0,0.0,0.0", ["is out of range", "each in (0, 1)"]),
        ("corpus.split=0.9,0.1", ["has 2 values", "three"]),
        ("corpus.split=0.7,0.1,0.1,0.1", ["has 4 values"]),
        ("corpus.template=titel", ["Did you mean title?"]),
        ("harvest.since=yesterday", ["is no date", "YYYY-MM-DD"]),
        ("harvest.source=archve", ["Did you mean archive?"]),
        ("harvest.columns=title", ["is no dict[str, str]", "which column is which field"]),
        ("harvest.columns=title: 3", ["{'title': 3} is no dict[str, str]"]),
        ("harvest.source=archive", ["no path is given", "-p harvest.path=FILE"]),
        ("model=my-gpt2", ["'my-gpt2' does not exist", "124M", "hparams.json"]),
    ],
)
def test_wrong_requests_name_the_place_and_the_remedy(project, override, said):
    with pytest.raises(RequestError) as error:
        read(project, override)
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finetune: {steps: 0}", "finetune.steps: 0 is out of range"),
        ("finetunes: {steps: 1}", "did you mean finetune?"),
        ("finetune: 3", "needs keys and values below it"),
        ("- a\n- b", "is no experiment"),
        ("a: [", "cannot be read as an experiment"),
        ("steps: 3", "section steps is unknown"),
    ],
)
def test_wrong_files_are_refused(project, text, said):
    with pytest.raises(RequestError, match=r"e\.yml|finetune") as error:
        read(project, text=text)
    assert said in str(error.value)


def test_a_missing_experiment_names_the_nearest(project):
    assert find("sample-titles") == root() / SAMPLE
    with pytest.raises(RequestError, match="did you mean sample-titles"):
        find("sample-title")
    with pytest.raises(RequestError, match=r"no experiment nope; \S+ has ") as error:
        find("nope")
    assert "sweeps/" not in str(error.value)
    with pytest.raises(RequestError, match=r"did you mean sweeps/small\?.* has .*sweeps/block-size"):
        find("smal", "**/*.yml")


@pytest.mark.parametrize(
    ("value", "kind", "good"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        ("1", float, False),
        (None, str, False),
        ([1, 2.0], list[float], True),
        (["a", 1], list[str], False),
        ({"a": "b"}, dict[str, str], True),
        ({1: "b"}, dict[str, str], False),
        (["a"], dict[str, str], False),
    ],
)
def test_fits(value, kind, good):
    assert fits(value, kind) is good


def test_the_command_line_refuses_with_2_and_no_traceback(project):
    command = [sys.executable, "-m", "titlesmith", "run", SAMPLE, "-p", "finetune.steps=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project)
    assert done.returncode == 2
    assert "finetune.steps: 0 is out of range" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    "overrides, match",
    [
        (("generate.beams=2", "generate.count=3"), "3 texts of 2 beams"),
        (("generate.beams=2", "generate.count=2", "generate.best_of=2"), "generate.best_of"),
        (("generate.min_tokens=65",), "generate.min_tokens: 65"),
        (("generate.prompts={title: x}",), "takes no prompt"),
        (("corpus.template=title-to-abstract", "generate.held_out=0"), "nothing to complete"),
        (("corpus.template=title-to-abstract", "generate.prompts={titel: x}"), "takes title; given is titel"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_runs(project, overrides, match):
    with pytest.raises(RequestError, match=match):
        Experiment.read(project / "experiments" / "sample-titles.yml", overrides)
