import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from threading import Thread

import nbformat
import pytest

from conftest import SMALL, copy_run, execute_here
from titlesmith.errors import RequestError, RunError, StageError
from titlesmith.experiment import Experiment
from titlesmith.notebook import begin
from titlesmith.pipeline import chain, failed, finish, has_changed_defaults, source
from titlesmith.runs import STAGES, Run, release
from titlesmith.settings import defaults
from titlesmith.train import monitor


def experiment(*overrides: str) -> Experiment:
    from titlesmith.experiment import find

    return Experiment.read(find("scratch-titles"), ("harvest.path=papers.tsv", *SMALL, *overrides))


def test_all_five_notebooks_ran_with_the_parameters_given(finished):
    assert finished.complete
    book = nbformat.read(finished.executed("finetune"), 4)
    (given,) = [c.source for c in book.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert 'run_name = "small"' in given and "steps = 6" in given
    assert "loss_floor" not in given, "what the experiment leaves at its default is not repeated"
    assert finished.record("finetune")["stop_reason"] == "all 6 steps were done"
    assert len(finished.texts) == 9
    assert set(finished.metrics) >= {"perplexity", "copy_rate", "near_copy_rate", "artifact_rate", "prefix_kept_rate"}
    assert finished.info["versions"]["gpt-2-simple"]


def test_progress_bars_are_kept_in_their_last_state_only_and_nothing_is_red(finished):
    books = {stage: nbformat.read(finished.executed(stage), 4) for stage in STAGES}
    streams = {s: [o for c in b.cells for o in c.get("outputs", []) if "name" in o] for s, b in books.items()}
    assert not [output for outputs in streams.values() for output in outputs if output.name == "stderr"]
    (text,) = [output.text for output in streams["finetune"] if "tokens read/s" in output.text]
    assert "Training stopped" in text
    assert "6/6" in text and "\r" not in text and "smoothed" in text and "tokens read/s" in text


def test_nothing_changed_nothing_runs(finished):
    lines = []
    chain(experiment(), "small", echo=lines.append)
    assert lines == [f"[{i}/5] {stage}: unchanged, skipped" for i, stage in enumerate(STAGES, 1)]


def test_a_training_that_another_run_shares_needs_no_memory_for_a_second_one(finished):
    def reached(stage: str) -> None:
        raise StageError(f"reached {stage}")

    large = experiment("finetune.batch_size=1000000")
    with pytest.raises(RequestError, match="GiB of memory"):
        chain(large, "large", around=reached)
    with pytest.raises(StageError, match="reached harvest"):
        chain(large, "large", around=reached, trains=False)
    shutil.rmtree(Run("large").path)  # other tests list the runs


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.fixture
def copied(papers, finished_project):
    """A complete copy of the finished run in another project, under another name."""
    return copy_run(papers, "copied", finished_project)


def test_damaged_files_of_finished_stages_are_named_and_the_seed_decides_what_is_rebuilt(copied, finished, in_process):
    lines, damaged = [], []
    for stage, pattern, damage in [
        ("harvest", "papers.parquet", flip_a_bit),
        ("corpus", "corpus/train.parquet", flip_a_bit),
        ("finetune", "history.csv", flip_a_bit),
        ("finetune", "model/model-*.data*", flip_a_bit),
        ("generate", "texts.jsonl", flip_a_bit),
        ("evaluate", "metrics.json", replace_by_folder),
    ]:
        (path,) = copied.path.glob(pattern)
        damage(path)
        assert path in copied.damaged(stage)
        damaged.append((stage, path))
    chain(experiment(), "copied", echo=lines.append)
    for stage, path in damaged:
        (line,) = [line for line in lines if f"{path} is" in line]
        assert f"{stage}: {path} is damaged or missing" in line
    assert copied.complete and not any(map(copied.damaged, STAGES))
    for stage in STAGES:
        wrote, before = copied.record(stage)["outputs"], finished.record(stage)["outputs"]
        timed = {path for path in wrote if path == "history.csv" or path.startswith("tensorboard/")}
        assert {k: v for k, v in wrote.items() if k not in timed} == {k: before[k] for k in wrote if k not in timed}
        assert len(wrote) == len(before)
    assert_same_history(copied, finished)


def assert_same_history(one: Run, other: Run) -> None:
    rows = [monitor.read(run / "history.csv") for run in (one, other)]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]


@pytest.fixture
def papers(finished, project, finished_project):
    """An empty project, the current one, with the papers of `finished_project`."""
    (project / "papers.tsv").write_bytes((finished_project / "papers.tsv").read_bytes())
    return project


@pytest.fixture
def harvested(copied):
    """The copied run with its harvest alone."""
    for stage in reversed(STAGES[1:]):
        copied.clear(stage)
    return copied


def test_a_change_runs_its_stage_and_those_after_it(copied, in_process):
    lines = []
    chain(experiment("corpus.order=random"), "copied", until="corpus", echo=lines.append)
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "[1/2] harvest: unchanged, skipped",
        "[2/2] corpus: running 02_corpus.ipynb",
        "[2/2] corpus: done in N s",
    ]
    assert not copied.is_current("finetune")


def test_an_edited_input_file_runs_the_harvest_again_with_titlesmiths_python(papers, copied, tmp_path, monkeypatch):
    # Another kernel is installed under the name python3
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    with (papers / "papers.tsv").open("a") as file:
        file.write("9\t2020.00001\tA new one\tabstract\tA\tcs.SD\tcs.SD\t2020-01-01\t\t\n")
    lines = []
    assert chain(experiment(), "copied", until="harvest", echo=lines.append).is_current("harvest")
    assert "running" in lines[0] and not copied.is_current("corpus")


def test_from_runs_again_what_has_not_changed(copied, in_process):
    lines = []
    chain(experiment(), "copied", until="corpus", start="corpus", echo=lines.append)
    assert "skipped" in lines[0] and "running" in lines[1]
    assert copied.is_current("finetune"), "the rebuilt corpus is the same"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("raise ValueError('on purpose')", "ValueError: on purpose"),
        ("import sys; sys.exit(0)", "a cell that did not run to its end"),
        ("import os; os._exit(0)", "its kernel was killed, perhaps because"),
        ("print('done')", "wrote no result"),
    ],
)
def test_a_failed_notebook_fails_its_stage_and_can_be_opened(papers, harvested, cell, said):
    path = papers / "notebooks" / "02_corpus.ipynb"
    book = nbformat.read(path, 4)
    parameters = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    book.cells = [*parameters, nbformat.v4.new_code_cell(cell)]
    nbformat.write(book, path)
    with pytest.raises(StageError, match=said) as error:
        chain(experiment(), "copied", echo=lambda line: None)
    assert "corpus failed in" in str(error.value)
    assert str(failed(harvested, "corpus")) in str(error.value)
    assert nbformat.read(failed(harvested, "corpus"), 4).cells
    assert harvested.executed("harvest").exists() and not harvested.executed("corpus").exists()
    assert not harvested.complete


def test_a_notebook_opened_alone_runs_the_ones_before_it(project, in_process):
    run = Run("alone")
    execute_here(run, "corpus", {})
    assert run.is_current("corpus")
    assert run.record("harvest")["settings"]["source"] == "sample" and run.made_up


def test_a_notebook_opened_alone_keeps_what_was_harvested(harvested):
    before = harvested.digests("harvest")
    harvested.executed("harvest").unlink()  # as when the first notebook ran in JupyterLab
    run = begin("corpus", defaults("corpus") | {"run_name": "copied"}).run
    release(run / ".stage.lock")
    assert run.digests("harvest") == before and not run.made_up


def test_a_stage_with_an_unchanged_result_does_not_rerun_later_stages(copied, in_process):
    lines = []
    chain(experiment("harvest.until=2099-01-01"), "copied", until="corpus", echo=lines.append)
    assert "running" in lines[0] and "corpus: unchanged, skipped" in lines[-1]


WAITING = """
import time
from pathlib import Path
from titlesmith.train import monitor

record = monitor.Monitor.step
def step(self, **row):
    record(self, **row)
    while Path("wait").exists() and row["step"] == int(Path("wait").read_text()):
        time.sleep(0.05)
monitor.Monitor.step = step
"""


def wait_until(condition) -> None:
    end = time.monotonic() + 900
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_and_kill_9_while_training_and_the_same_command_resumes(papers, copied, finished, monkeypatch):
    for stage in ("evaluate", "generate", "finetune"):
        copied.clear(stage)
    monkeypatch.chdir(papers)
    path = papers / "notebooks" / "03_finetune.ipynb"
    book = nbformat.read(path, 4)
    book.cells.insert(1, nbformat.v4.new_code_cell(WAITING))
    nbformat.write(book, path)
    settings = [word for value in ("harvest.path=papers.tsv", *SMALL) for word in ("-p", value)]
    command = [sys.executable, "-m", "titlesmith", "run", "scratch-titles", "--name", "copied", "--until", "finetune"]
    history, seen, readers = copied / "history.csv", [], []

    def start_and_wait_at(step: int) -> subprocess.Popen:
        (papers / "wait").write_text(str(step))
        process = subprocess.Popen(
            [*command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        seen.clear()
        readers.append(Thread(target=lambda: seen.extend(iter(lambda: process.stderr.read1(), b"")), daemon=True))
        readers[-1].start()
        wait_until(lambda: process.poll() is not None or (history.exists() and len(monitor.read(history)) == step))
        assert process.poll() is None, b"".join(seen)[-2000:]
        wait_until(lambda: b"/6" in b"".join(seen))  # it shows its progress while its cell still runs
        return process

    # Ctrl-C in step 3, after the checkpoint of step 2
    process = start_and_wait_at(3)
    with pytest.raises(RunError, match="in use by another"):
        chain(experiment(), "copied")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(3)  # the interrupt reaches the kernel, whose step ends then
    (papers / "wait").write_text("0")
    assert process.wait(timeout=300) == 130
    said = rb"stopped at step [34] of 6; run `titlesmith run [^`]+` again to resume"
    readers[-1].join(30)
    assert re.search(said, b"".join(seen)), b"".join(seen)[-900:].decode()
    assert (copied / "model" / "last").exists() and b"Traceback" not in b"".join(seen)

    # Kill -9 in step 5, after the checkpoint of step 4
    process = start_and_wait_at(5)
    process.kill()
    process.wait()
    before = monitor.read(history)[:4]
    (papers / "wait").unlink()
    subprocess.run([*command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=900)
    assert monitor.read(history)[:4] == before, "what was done before the kill was not done again"
    assert_same_history(copied, finished)


def test_finish_ends_a_training_whose_checkpoint_is_of_use(papers, copied, monkeypatch):
    copied.update_stage("finetune", status="running")
    (copied / "model" / "last").mkdir()
    monkeypatch.setattr("titlesmith.pipeline.chain", lambda *given, **stages: (*given, stages))
    resumed, name, stages = finish(copied, until="generate")
    assert resumed.settings == experiment().settings and name == "copied"
    assert stages == {"until": "generate", "first": "finetune"} and copied.record("finetune")["ended"]
    path = papers / "experiments" / "scratch-titles.yml"
    path.write_text(path.read_text().replace("warmup_steps: 150", "warmup_steps: 9"))
    with pytest.raises(RequestError, match="its settings, notebook or an input has changed"):
        finish(copied)


def test_parameters_are_not_in_the_fingerprint_of_the_notebook(papers):
    before = source("finetune")
    path = papers / "notebooks" / "03_finetune.ipynb"
    book = nbformat.read(path, 4)
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = cell.source.replace("steps: int = 250", "steps: int = 300")
    nbformat.write(book, path)
    assert source("finetune") == before
    book.cells.append(nbformat.v4.new_code_cell("print(steps)"))
    nbformat.write(book, path)
    assert source("finetune") != before


def test_changed_defaults_are_noticed(project):
    assert not has_changed_defaults("finetune"), "not in git"
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "notebooks"], [*identity, "commit", "-qm", "notebooks"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    assert not has_changed_defaults("finetune")
    path = project / "notebooks" / "03_finetune.ipynb"
    path.write_text(path.read_text().replace("steps: int = 250", "steps: int = 9"))
    assert has_changed_defaults("finetune") and not has_changed_defaults("corpus")
