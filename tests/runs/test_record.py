import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from titlesmith.errors import RequestError, RunError
from titlesmith.runs import OUTPUTS, STAGES, Run, list_runs, replacing, root, write_json


def finish(run: Run, stage: str, content: str = "x", settings: dict | None = None) -> None:
    """Plays a stage: writes its outputs and an executed notebook."""
    run.begin(stage, settings or {"seed": 1})
    run.clear(stage)
    run.begin(stage, settings or {"seed": 1})
    for name in OUTPUTS[stage]:
        path = run / name if "." in name else run / name / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    run.finish(stage)
    run.executed(stage).parent.mkdir(exist_ok=True)
    (run / "executed.ipynb").write_text("{}")
    run.keep_notebook(stage, run / "executed.ipynb")


def test_root_is_the_nearest_folder_with_notebooks(project, monkeypatch):
    monkeypatch.delenv("TITLESMITH_ROOT")
    (project / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(project / "a" / "b")
    assert root() == project


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "a b", "<b>", "-x"])
def test_names_that_leave_the_runs_folder_are_refused(project, name):
    with pytest.raises(RequestError, match="cannot name a run"):
        Run(name)


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_a_stage_needs_the_stages_before_it(project):
    with pytest.raises(RunError, match=r"harvest has not run\. Run it: titlesmith run EXPERIMENT.*01_harvest"):
        Run("r").begin("corpus", {})


def test_a_stage_refuses_what_was_made_of_an_older_stage(project):
    run = Run("r")
    finish(run, "harvest")
    finish(run, "corpus")
    finish(run, "harvest", "other papers")
    with pytest.raises(RunError, match="its corpus is out of date"):
        run.begin("finetune", {})


def test_complete_only_when_every_stage_read_what_is_there_now(project):
    run = Run("r")
    for stage in STAGES:
        assert not run.complete
        finish(run, stage)
    assert run.complete
    assert [r.name for r in list_runs()] == ["r"]
    finish(run, "corpus", "other content")
    assert not run.complete, "the model was trained on another corpus"


def test_a_run_that_lacks_a_file_is_not_complete(project):
    run = Run("r")
    for stage in STAGES:
        finish(run, stage)
    (run / "metrics.json").unlink()
    assert not run.complete


def test_the_run_worked_on_last_comes_first_and_damaged_ones_are_named(project, capsys):
    for name, ended in (("old", "2026-01-01"), ("new", "2026-01-02")):
        finish(Run(name), "harvest")
        Run(name).update_stage("harvest", ended=ended)
    Run("old").update(experiment="touched later")
    for name, content in (("cut", '{"stages": {'), ("list", "[]"), ("odd", '{"stages": []}')):
        (project / "runs" / name).mkdir()
        (project / "runs" / name / "run.json").write_text(content)
    assert [run.name for run in list_runs()] == ["new", "old"]
    assert capsys.readouterr().err.count("is damaged") == 3


@pytest.mark.parametrize("line", ["a\u2028b", "a\u0085b", "plain"])
def test_texts_with_odd_line_breaks_are_read(project, line):
    run = Run("r")
    for stage in STAGES[:4]:
        finish(run, stage)
    (run / "texts.jsonl").write_text(json.dumps({"text": line}, ensure_ascii=False) + "\n", "utf-8")
    assert run.texts == [{"text": line}]


@pytest.mark.parametrize(
    "change",
    [
        "settings",
        "source",
        "an input",
        "a file outside",
        "an output",
        "an output removed",
        "the executed notebook",
        "the executed notebook removed",
    ],
)
def test_a_stage_is_done_until_something_changes(project, change):
    run, settings, source = Run("r"), {"seed": 1, "model": "tiny"}, ""
    (project / "models" / "tiny").mkdir(parents=True)
    (project / "models" / "tiny" / "encoder.json").write_text("{}")
    finish(run, "harvest")
    finish(run, "corpus", settings=settings)
    assert run.is_done("corpus", settings, source)
    match change:
        case "settings":
            settings = settings | {"seed": 2}
        case "source":
            source = "another notebook"
        case "an input":
            finish(run, "harvest", "other papers")
        case "a file outside":
            (project / "models" / "tiny" / "encoder.json").write_text("{ }")
        case "an output":
            (run / "corpus" / "file").write_text("damaged")
        case "an output removed":
            (run / "corpus" / "file").unlink()
        case "the executed notebook":
            run.executed("corpus").write_text("{ }")
        case _:
            run.executed("corpus").unlink()
    assert not run.is_done("corpus", settings, source)


def test_begin_keeps_an_interrupted_stage_of_the_same_making_and_clears_any_other(project):
    run = Run("r")
    finish(run, "harvest")
    run.begin("corpus", {"seed": 1})
    (run / "corpus").mkdir()
    (run / "corpus" / "half").write_text("x")
    run.begin("corpus", {"seed": 1})
    assert (run / "corpus" / "half").exists()
    run.begin("corpus", {"seed": 2})
    assert not (run / "corpus").exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()
    (path / "child").write_text("x")


@pytest.mark.parametrize(
    ("stage", "file", "damage"),
    [
        ("finetune", "history.csv", flip),
        ("finetune", "model/file", flip),
        ("finetune", "model/file", Path.unlink),
        ("generate", "texts.jsonl", flip),
        ("evaluate", "metrics.json", replace_by_folder),
    ],
)
def test_a_finished_stage_that_is_damaged_is_rebuilt_from_nothing(project, capsys, stage, file, damage):
    run = Run("r")
    for name in STAGES:
        finish(run, name)
    damage(run / file)
    assert run.damaged(stage) == [run / file]
    with pytest.raises(RunError, match=f"{file} is .* titlesmith run EXPERIMENT --name r"):
        run.verify(stage)
    run.begin(stage, {"seed": 1})
    assert not any((run / name).exists() for name in OUTPUTS[stage])
    assert f"{run / file} is damaged or missing" in capsys.readouterr().out
    finish(run, stage)
    assert not run.damaged(stage) and run.complete


def test_a_finished_stage_that_is_intact_keeps_its_files(project):
    run = Run("r")
    finish(run, "harvest")
    run.begin("harvest", {"seed": 1})
    assert (run / "papers.parquet").exists()


def test_a_damaged_run_json_says_what_to_do(project):
    run = Run("r")
    finish(run, "harvest")
    (run / "run.json").write_text('{"stages": {"har')
    with pytest.raises(RunError, match=r"is damaged .* Remove it"):
        run.record("harvest")


HOLDER = """
import sys, time
from titlesmith.runs import Run
Run("r").begin("harvest", {})
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_in_use_is_refused_and_free_after_kill(project, monkeypatch):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr("titlesmith.runs.locks.LOCK_TIMEOUT", 0.5)
    with pytest.raises(RunError, match="in use by another"):
        Run("r").begin("harvest", {})
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    begun = time.monotonic()
    Run("r").begin("harvest", {})
    assert time.monotonic() - begun < 5


def test_the_command_that_makes_what_is_missing(project):
    run = Run("r")
    run.update(experiment="experiments/e.yml", overrides=["harvest.path=a b.tsv"])
    assert run.rerun_command == "titlesmith run experiments/e.yml --name r -p 'harvest.path=a b.tsv'"
    run.update(sweep={"name": "rates", "set": {}, "repeat": 1})
    assert "sweep rates" in run.rerun_command and "titlesmith run" not in run.rerun_command


def test_a_damaged_record_is_named_and_other_runs_stay(project, capsys):
    finish(Run("complete"), "harvest")
    (project / "runs" / "odd").mkdir()
    (project / "runs" / "odd" / "run.json").write_text('{"stages": {"harvest": 3}}')
    with pytest.raises(RunError, match=r"odd/run\.json is damaged"):
        Run("odd").record("harvest")
    assert [run.name for run in list_runs()] == ["complete"] and "odd" in capsys.readouterr().err
