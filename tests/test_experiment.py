import json
import math
import re
import subprocess
import sys
import time
from datetime import date

import papermill
import pytest

from titlesmith import cli, hints, models
from titlesmith.errors import RequestError
from titlesmith.experiment import Experiment, find
from titlesmith.runs import STAGES, notebook, root
from titlesmith.settings import Constraint, Parameter, declared

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


def test_a_parameter_that_a_notebook_lacks_has_its_default(project):
    path = project / "notebooks" / "03_finetune.ipynb"
    lines = [line for line in path.read_text("utf-8").splitlines() if '"validate_documents:' not in line]
    path.write_text("\n".join(lines), "utf-8")
    declared.cache_clear()
    assert "validate_documents" in read(project).settings["finetune"]
    declared.cache_clear()


def test_a_notebook_that_cannot_be_read_is_named(project, monkeypatch):
    (project / "notebooks" / "02_corpus.ipynb").write_text("{")
    declared.cache_clear()
    with pytest.raises(RequestError, match=r"02_corpus\.ipynb: its parameters cannot be read"):
        declared("corpus")
    declared.cache_clear()


def test_a_parameter_that_was_typed_again_needs_no_help(project):
    path = project / "notebooks" / "03_finetune.ipynb"
    path.write_text(re.sub(r"steps: int = 250  #[^\\]*", "steps:int=40", path.read_text("utf-8"), count=1), "utf-8")
    declared.cache_clear()
    steps = declared("finetune")["steps"]
    declared.cache_clear()
    assert (steps.default, steps.type, steps.help) == (40, int, "") and steps.check(10**6) == 10**6


def test_lists_and_mappings_may_be_written_as_on_the_command_line(project):
    settings = read(project, text="generate: {prefixes: 'Deep, Music'}\nharvest: {columns: 'title: name'}").settings
    assert settings["generate"]["prefixes"] == ["Deep", "Music"]
    assert settings["harvest"]["columns"] == {"title": "name"}


def test_yaml_dates_and_integers_become_the_declared_types(project):
    e = read(project, text="harvest: {since: 2020-01-02}\nfinetune: {loss_floor: 0}\n")
    assert e.settings["harvest"]["since"] == date(2020, 1, 2).isoformat()
    assert repr(e.settings["finetune"]["loss_floor"]) == "0.0"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.stps=3", ["finetune.stps is unknown", "Did you mean finetune.steps?"]),
        ("finetun.steps=3", ["finetun.steps is unknown", "Did you mean finetune.steps?"]),
        ("modle=124M", ["modle is unknown", "Did you mean model?"]),
        ("finetune.steps", ["section.key=value"]),
        ("finetune.steps=0", ["finetune.steps: '0' is not allowed", "maximum number of optimizer steps; 1 or more"]),
        ("finetune.steps=1.5", ["'1.5' is not allowed", "It needs int"]),
        ("finetune.steps=many", ["'many' is not allowed"]),
        ("finetune.steps=true", ["'true' is not allowed"]),
        ("finetune.steps=[", ["finetune.steps: '[' is not allowed"]),
        ("finetune.learning_rate=0", ["finetune.learning_rate: '0' is not allowed", "> 0 to 1"]),
        ("finetune.learning_rate=nan", ["'nan' is not allowed"]),
        ("finetune.schedule=cosin", ["Did you mean cosine?", "constant, linear, cosine"]),
        ("generate.temperature=0", ["generate.temperature: '0' is not allowed", "> 0 to 10"]),
        ("generate.temperature=-1", ["'-1' is not allowed"]),
        ("generate.prefixes=", ["generate.prefixes: '' is not allowed", "not empty"]),
        ("generate.prefixes=[[1],2]", ["It needs list[str]"]),
        ("generate.top_p=1.5", ["> 0 to 1"]),
        ("generate.max_tokens=256", ["exceed the model's context of 256"]),
        ("generate.prefixes=" + "word " * 300, ["after a prefix of 300 words exceed the model's context of 256"]),
        ("finetune.block_size=512", ["exceeds the model's context of 256"]),
        ("corpus.model=124M", ["'124M' and 'scratch'", "once, at the top"]),
        ("corpus.split=0.5,0.4,0.4", ["is not allowed", "sum 1"]),
        ("corpus.split=1.0,0.0,0.0", ["is not allowed", "each > 0"]),
        ("corpus.split=0.9,0.1", ["is not allowed", "3 values"]),
        ("corpus.template=titel", ["Did you mean title?"]),
        ("harvest.since=yesterday", ["is not allowed", "YYYY-MM-DD"]),
        ("harvest.source=archve", ["Did you mean archive?"]),
        ("harvest.columns=[title]", ["It needs dict[str, str]", "column of each field"]),
        ("harvest.columns=title: [3]", ["'title: [3]' is not allowed"]),
        ("harvest.since=20240229", ["'20240229' is not allowed"]),
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
        ("finetune: {steps: 0}", "finetune.steps: '0' is not allowed"),
        ("finetunes: {steps: 1}", "finetunes.steps is unknown. Did you mean finetune.steps?"),
        ("finetune: 3", "needs keys and values below it"),
        ("- a\n- b", "is not an experiment"),
        ("a: [", "cannot be read as YAML: "),
        ("steps: 3", "steps is unknown. Did you mean finetune.steps?"),
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
    with pytest.raises(RequestError, match=r"no experiment 'nope'; \S+ has ") as error:
        find("nope")
    assert "sweeps/" not in str(error.value)
    with pytest.raises(RequestError, match=r"did you mean sweeps/small\?.* has .*sweeps/final-block-size"):
        find("smal", "**/*.yml")


AS_TYPED = ["On", "no", "2020", "12:30", "2020-01-01", "1e3", "0x1F", "What is AI?", "Deep: a study", "#1 x", "Deep ",
            " x", "null", "~", "[x", "x]", "- a", '"q"', "'q'", "{a", "*a", "&a", "!!int 3", "% x", "@", "a: b: c",
            "[MASK] and [SEP]", "\\n", "é音", "=", "<<"]  # fmt: skip


@pytest.mark.parametrize("text", AS_TYPED)
def test_text_is_taken_as_typed(project, text):
    e = read(project, f"generate.prefixes={text}", "harvest.source=arxiv", f"harvest.query={text}")
    assert e.settings["generate"]["prefixes"] == [text]
    assert e.settings["harvest"]["query"] == text
    e = read(project, f"generate.prefixes={json.dumps([text, 'a, b'])}")
    assert e.settings["generate"]["prefixes"] == [text, "a, b"]


def test_text_in_files_is_not_a_number_a_date_or_a_truth_value(project):
    plain = "On, 2020, 12:30, 2020-01-01, 1e3, What is AI?, Deep: a study, null, ~"
    text = f'generate: {{prefixes: [{plain}, "#1 x", "Deep ", "[x"]}}\nharvest: {{source: arxiv, query: 2020-02-30}}'
    e = read(project, text=text)
    assert e.settings["generate"]["prefixes"] == [*plain.split(", "), "#1 x", "Deep ", "[x"]
    assert e.settings["harvest"]["query"] == "2020-02-30"
    e = read(project, text="generate:\n  prefixes:\n  - No\n  - 1_000\n  - ''\n  - yes\n")
    assert e.settings["generate"]["prefixes"] == ["No", "1_000", "", "yes"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "an alias (*name) must be of a single value"),
        ("a: &a [*a]", "of a single value"),
        ("generate: {prefixes: " + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
        ("generate: {prefixes: " + "[" * 3000, "nested too deeply"),
        ("harvest: {since: 2024-02-30}", "'2024-02-30' is not allowed"),
        ("finetune: {steps: " + "9" * 5000 + "}", "It needs int"),
        ("finetune: {steps: 0x" + "f" * 5000 + "}", "It needs int"),
        ("finetune: {steps: 9223372036854775808}", "is not allowed"),
        ("seed: 4294967296", "is not allowed"),
        ('generate: {prefixes: ["\\ud800"]}', "e.yml"),
        ("finetune: {steps: 1}\nfinetune: {steps: 2}", "the key 'finetune' is there twice"),
        ("finetune: {steps: 1, steps: 2}", "the key 'steps' is there twice"),
        ("finetune: {[a]: 2}", "unhashable key"),
        ("a: [" + "*a," * 200 + "]", "undefined alias"),
        ("seed: 1\n---\nseed: 2", "expected a single document"),
        ("finetune: !!python/object/apply:os.system [id]", "needs keys and values"),
        ("corpus: {template: '" + "{title} " * 5000 + "{'}", "corpus.template"),
        ("? " + "x" * 5000 + "\n: 1", "is unknown"),
        ("a: \x07", "e.yml"),
    ],
)
def test_hostile_files_are_refused_in_one_short_line_within_a_second(project, text, said):
    begun = time.process_time()
    with pytest.raises(RequestError) as error:
        read(project, text=text)
    assert time.process_time() - begun < 1
    assert said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generate.prefixes=bad\udcff", "surrogates not allowed"),
        ("generate.prompts=[{title: bad\udcff}]", "generate.prompts"),
        ("generate.prompts=" + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("finetune.steps=" + "9" * 5000, "is not allowed"),
        ("finetune.learning_rate=" + "9" * 5000, "is not allowed"),
        ("harvest.since=" + "2024-02-30" * 500, "is not allowed"),
        ("harvest.source=csv\nx" + "y" * 5000, "is not allowed"),
        ("y" * 5000 + ".steps=1", "is unknown"),
        ("finetune." + "y" * 5000 + "=1", "is unknown"),
        ("y" * 5000, "section.key=value"),
    ],
)
def test_hostile_overrides_are_refused_in_one_short_line(project, override, said):
    with pytest.raises(RequestError) as error:
        read(project, override)
    assert said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.lr=1", "Did you mean finetune.learning_rate?"),
        ("lr=1", "Did you mean finetune.learning_rate?"),
        ("finetune.batch=1", "Did you mean finetune.batch_size?"),
        ("train.steps=1", "Did you mean finetune.steps?"),
        ("harvest.source=kaggle", "Did you mean snapshot?"),
        ("harvest.batch_size=1", "Did you mean finetune.batch_size?"),
        ("generate.max_new_tokens=1", "Did you mean generate.max_tokens?"),
        ("model=gpt2", "Did you mean 124M?"),
        ("model=gpt2-medium", "Did you mean 355M?"),
        ("model=124m", "Did you mean 124M?"),
        ("finetune.precision=bf16", "Did you mean bfloat16?"),
        ("finetune.schedule=Cosine", "Did you mean cosine?"),
        ("corpus.template=Title", "Did you mean title?"),
        ("corpus.template={title!r}", "Did you mean title?"),
        ("harvest.categories=cs.cl", "Did you mean cs.CL?"),
        ("harvest.categories=cs/CL", "Did you mean cs.CL?"),
        ("harvest.categories=cmp-lg2", None),
        ("harvest.categories=CS.CLX", "Did you mean cs.CL?"),
        ("harvest.categories=phisics", "Did you mean physics?"),
    ],
)
def test_a_hint_names_something_valid_or_nothing(project, override, said):
    with pytest.raises(RequestError) as error:
        read(project, *["harvest.source=arxiv"] * ("categories" in override), override)
    assert said in str(error.value) if said else "id you mean" not in str(error.value)


def test_every_common_name_leads_to_a_name_that_exists():
    known = {*STAGES, *models.PUBLISHED}
    for stage in STAGES:
        known |= declared(stage).keys() | {c for p in declared(stage).values() for c in p.constraint.choices}
    assert {name for name in hints.COMMON if name not in known} == set()
    assert {common for common in hints.NAME if common in known} <= {"date", "sample"}


@pytest.mark.parametrize(
    ("help", "good", "bad"),
    [
        ("x; 1 or more", [1, 9], [0, math.nan, math.inf, 2**63]),
        ("x; > 0", [0.1, 9], [0, -1, math.inf]),
        ("x; 0 to < 1", [0, 0.5], [1, -0.1]),
        ("x; > 0 to 1", [1, 0.5], [0, 1.1]),
        ("x; 3 values; each > 0; sum 1", [[0.5, 0.25, 0.25]], [[1, 0, 0], [0.5, 0.5], [1, 1, 1]]),
        ("x; one of a, b c", ["a", "b c"], ["b", ""]),
        ("x; not empty", [["a"]], [[]]),
        ('x; YYYY-MM-DD or ""', ["", "2024-02-29"], ["20240229"]),
        ("0 for none; see above; 12 of 13", [0, -1, 99], []),
    ],
)
def test_constraints(help, good, bad):
    description, constraint = Constraint.parse(help)
    assert description == (help if constraint == Constraint() else "x")
    assert all(map(constraint.allows, good)) and not any(map(constraint.allows, bad))


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_has_a_constraint(stage):
    for p in declared(stage).values():
        assert p.annotation not in ("int", "float") or p.constraint != Constraint(), p


@pytest.mark.parametrize(
    ("value", "kind", "good"),
    [
        (1, "int", True),
        (True, "int", False),
        (1, "float", True),
        (1.5, "int", False),
        (10**400, "float", False),
        (3, "str", False),
        ([1, 2.0], "list[float]", True),
        (["a", 1], "list[str]", False),
        ({"a": "b"}, "dict[str, str]", True),
        ({1: "b"}, "dict[str, str]", False),
        (["a"], "dict[str, str]", False),
    ],
)
def test_values_have_the_declared_type(value, kind, good):
    parameter = Parameter("finetune", "x", kind, None, "help")
    if good:
        assert parameter.check(value) == value
    else:
        with pytest.raises(RequestError, match=re.escape(f"It needs {kind}")):
            parameter.check(value)


def test_the_command_line_refuses_with_2_and_no_traceback(project):
    command = [sys.executable, "-m", "titlesmith", "run", SAMPLE, "-p", "finetune.steps=0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=project)
    assert done.returncode == 2
    assert "finetune.steps: '0' is not allowed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", SAMPLE, "-p", "model=" + "x" * 5000],
        ["run", SAMPLE, "-p", "harvest.source=csv", "-p", "harvest.path=" + "x" * 5000],
        ["run", SAMPLE, "--name", "x" * 5000],
        ["run", "x" * 5000],
        ["run", "x" * 5000 + ".yml"],
        ["show", "x" * 5000],
        ["export", "x" * 5000, "--to", "hf"],
        ["generate", "x" * 5000],
        ["generate", "--adapter", "x" * 5000],
        ["sweep", "x" * 5000],
        ["compare", "x" * 5000, "y"],
        ["models", "get", "x" * 5000],
    ],
)
def test_long_names_are_refused_in_one_short_line(project, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["titlesmith", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1 and len(said) < 1500


@pytest.mark.parametrize(
    "overrides, match",
    [
        (("generate.beams=2", "generate.count=3"), "3 texts of 2 beams"),
        (("generate.beams=2", "generate.count=2", "generate.best_of=2"), "generate.best_of"),
        (("generate.min_tokens=65",), "generate.min_tokens: 65"),
        (("generate.prompts={title: x}",), "has no prompt"),
        (("corpus.template=title-to-abstract", "generate.held_out=0"), "nothing to complete"),
        (("corpus.template=title-to-abstract", "generate.prompts={titel: x}"), "needs title; given is titel"),
    ],
)
def test_texts_that_cannot_be_generated_are_refused_before_anything_runs(project, overrides, match):
    with pytest.raises(RequestError, match=match):
        Experiment.read(project / "experiments" / "sample-titles.yml", overrides)


@pytest.mark.parametrize("stage", STAGES)
def test_parameters_are_read_as_papermill_reads_them(stage):
    theirs = papermill.inspect_notebook(str(notebook(stage)))
    ours = {name: (p.annotation, p.help) for name, p in declared(stage).items()}
    assert ours == {k: (p["inferred_type_name"], p["help"]) for k, p in theirs.items() if k != "run_name"}


def test_prompts_may_be_the_rows_of_a_csv_file(project):
    (project / "mine.csv").write_text("title,note\nOn sound,\n", "utf-8")
    base = ("corpus.template=title-to-abstract",)
    assert read(project, *base, "generate.prompts=mine.csv").settings["generate"]["prompts"] == [
        {"title": "On sound", "note": ""}
    ]
    for name, said in (
        ("none.csv", "'none.csv' is not allowed: .*No such file"),
        ("[{titel: On sound}]", "needs title; given is titel"),
    ):
        with pytest.raises(RequestError, match=said):
            read(project, *base, f"generate.prompts={name}")
