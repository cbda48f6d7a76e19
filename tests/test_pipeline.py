import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import nbformat
import papermill
import pytest

from conftest import SMALL
from titlesmith.errors import RunError, StageError
from titlesmith.experiment import Experiment
from titlesmith.pipeline import chain, check_parameters_cell, failed, source
from titlesmith.runs import STAGES, Run, hold, release, swapped
from titlesmith.train import monitor


def experiment(*overrides: str) -> Experiment:
    from titlesmith.experiment import find

    return Experiment.read(find("archive-titles"), ("harvest.path=papers.tsv", *SMALL, *overrides))


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


def test_progress_bars_are_kept_in_their_last_state_only(finished):
    book = nbformat.read(finished.executed("finetune"), 4)
    (text,) = [o.text for c in book.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
    assert "6/6" in text and "\r" not in text and "smoothed" in text and "tokens/s" in text


def test_nothing_changed_nothing_runs(finished):
    lines = []
    chain(experiment(), "small", echo=lines.append)
    assert lines == [f"[{i}/5] {stage}: unchanged, skipped" for i, stage in enumerate(STAGES, 1)]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("stage", "pattern", "damage"),
    [
        ("generate", "texts.jsonl", flip_a_bit),
        ("evaluate", "metrics.json", replace_by_folder),
        ("finetune", "model/model-*.data*", flip_a_bit),
        ("finetune", "history.csv", flip_a_bit),
    ],
)
def test_a_damaged_file_of_a_finished_stage_is_rebuilt_and_named(finished, stage, pattern, damage):
    (path,) = finished.path.glob(pattern)
    before, lines = finished.record("evaluate")["outputs"], []
    damage(path)
    chain(experiment(), "small", echo=lines.append)
    number = STAGES.index(stage) + 1
    assert f"[{number}/5] {stage}: {path}: changed or damaged" in "\n".join(lines)
    assert finished.complete and not any(map(finished.damaged, STAGES))
    assert finished.record("evaluate")["outputs"] == before, "the same seed gives the same result"


def test_the_seed_decides_all_that_a_run_writes(finished, papers):
    again = chain(experiment(), "again", echo=lambda line: None)
    assert again.path != finished.path
    for stage in STAGES:
        wrote, before = again.record(stage)["outputs"], finished.record(stage)["outputs"]
        timed = {path for path in wrote if path == "history.csv" or path.startswith("tensorboard/")}
        assert {k: v for k, v in wrote.items() if k not in timed} == {k: before[k] for k in wrote if k not in timed}
        assert len(wrote) == len(before)
    rows = [monitor.read(run / "history.csv") for run in (again, finished)]
    for a, b in zip(*rows, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


@pytest.fixture
def papers(project, finished_project):
    """An empty project with the papers of `finished_project`."""
    (project / "papers.tsv").write_bytes((finished_project / "papers.tsv").read_bytes())
    return project


def test_a_change_runs_its_stage_and_those_after_it(papers):
    chain(experiment(), until="corpus", echo=lambda line: None)
    lines = []
    chain(experiment("corpus.order=random"), until="corpus", echo=lines.append)
    assert [re.sub(r"\d+ s", "N s", line) for line in lines] == [
        "[1/2] harvest: unchanged, skipped",
        "[2/2] corpus: running 02_corpus.ipynb",
        "[2/2] corpus: done in N s",
    ]


def test_an_edited_input_file_runs_the_harvest_again(papers):
    chain(experiment(), until="harvest", echo=lambda line: None)
    with (papers / "papers.tsv").open("a") as file:
        file.write("9\t2020.00001\tA new one\tabstract\tA\tcs.SD\tcs.SD\t2020-01-01\t\t\n")
    lines = []
    chain(experiment(), until="harvest", echo=lines.append)
    assert "running" in lines[0]


def test_from_runs_again_what_has_not_changed(papers):
    chain(experiment(), until="corpus", echo=lambda line: None)
    lines = []
    chain(experiment(), until="corpus", start="corpus", echo=lines.append)
    assert "skipped" in lines[0] and "running" in lines[1]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("raise ValueError('on purpose')", "ValueError: on purpose"),
        ("import sys; sys.exit(0)", r"sys\.exit\(0\).*not run to its end"),
        (
            "import os; os._exit(0)",
            r"os\._exit\(0\).*its kernel was killed, perhaps because",
        ),
        ("run.update_stage('corpus', status='running')", "it wrote no result"),
    ],
)
def test_a_failed_notebook_fails_its_stage_and_can_be_opened(papers, cell, said):
    path = papers / "notebooks" / "02_corpus.ipynb"
    book = nbformat.read(path, 4)
    book.cells.append(nbformat.v4.new_code_cell(cell))
    nbformat.write(book, path)
    with pytest.raises(StageError, match=said) as error:
        chain(experiment(), echo=lambda line: None)
    run = Run("archive-titles")
    assert "corpus failed in" in str(error.value)
    assert str(failed(run, "corpus")) in str(error.value)
    assert nbformat.read(failed(run, "corpus"), 4).cells
    assert run.executed("harvest").exists() and not run.executed("corpus").exists()
    assert not run.complete


HOLDER = """
import time
from titlesmith.runs import Run, hold
hold(Run("archive-titles") / ".chain.lock")
print("held", flush=True)
time.sleep(60)
"""


def test_two_chains_in_one_run_are_refused(papers):
    run = Run("archive-titles")
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, env=dict(os.environ))
    try:
        other.stdout.readline()
        with pytest.raises(RunError, match="in use by another"):
            chain(experiment())
    finally:
        other.kill()
        other.communicate()
    hold(run / ".chain.lock")
    release(run / ".chain.lock")


def execute(project, name, run):
    papermill.execute_notebook(
        str(project / "notebooks" / name), None, {"run_name": run}, cwd=str(project), progress_bar=False
    )


def test_a_notebook_opened_alone_runs_the_ones_before_it(project):
    execute(project, "02_corpus.ipynb", "alone")
    run = Run("alone")
    assert run.is_current("corpus")
    assert run.record("harvest")["settings"]["source"] == "sample" and run.made_up


def test_a_notebook_opened_alone_keeps_what_was_harvested(papers):
    chain(experiment(), until="harvest", echo=lambda line: None)
    run = Run("archive-titles")
    before = run.digests("harvest")
    run.executed("harvest").unlink()  # as when the first notebook ran in JupyterLab
    execute(papers, "02_corpus.ipynb", "archive-titles")
    assert run.digests("harvest") == before and not run.made_up


def test_a_stage_with_an_unchanged_result_does_not_rerun_later_stages(papers):
    chain(experiment(), until="corpus", echo=lambda line: None)
    lines = []
    chain(experiment("harvest.until=2099-01-01"), until="corpus", echo=lines.append)
    assert "running" in lines[0] and "corpus: unchanged, skipped" in lines[-1]


def waited(happened) -> None:
    until = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_kill_9_while_training_and_the_same_command_again(papers):
    long = [
        *SMALL,
        "finetune.steps=300",
        "finetune.save_every=10",
        "finetune.sample_every=0",
        "finetune.validate_every=30",
    ]
    overrides = [word for o in ["harvest.path=papers.tsv", *long] for word in ("-p", o)]

    def command(name):
        words = [sys.executable, "-m", "titlesmith", "run", "archive-titles", "--name", name, "--until", "finetune"]
        return subprocess.Popen(
            [*words, *overrides], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=papers, env=dict(os.environ)
        )

    complete = command("complete")
    _, progress = complete.communicate(timeout=300)
    assert complete.returncode == 0, progress
    killed, seen = command("killed"), []
    reader = threading.Thread(target=lambda: seen.extend(iter(lambda: killed.stderr.read1(), b"")))
    reader.start()
    waited(lambda: (Run("killed") / "run.json").exists())
    assert command("killed").wait() == 1, "refused while the first is at work"
    # It shows its progress while its cell still runs
    model = Run("killed") / "model" / "last"
    waited(lambda: (model / "checkpoint").exists() and b"/300" in b"".join(seen))
    assert killed.poll() is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    step = int(re.search(r'model-(\d+)"', (swapped(model) / "checkpoint").read_text())[1])
    before = monitor.read(Run("killed") / "history.csv")[:step]
    again = command("killed")
    again.communicate(timeout=300)
    assert again.returncode == 0
    reader.join()
    histories = [monitor.read(Run(name) / "history.csv") for name in ("complete", "killed")]
    assert len(histories[0]) == 300 and len(before) >= 10
    assert histories[1][:step] == before, "what was done before the kill was not done again"
    for a, b in zip(*histories, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


def test_kernels_run_titlesmiths_own_python(papers, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    assert chain(experiment(), until="harvest", echo=lambda line: None).is_current("harvest")


def test_ctrl_c_tells_the_step_and_the_command_that_resumes(papers):
    command = [sys.executable, "-m", "titlesmith", "run", "archive-titles", "--until", "finetune"]
    settings = ["harvest.path=papers.tsv", *SMALL, "finetune.steps=100000"]
    process = subprocess.Popen(
        [*command, *(word for setting in settings for word in ("-p", setting))],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip
    history, deadline = Run("archive-titles") / "history.csv", time.monotonic() + 120
    while not history.exists() or history.read_text().count("\n") < 6:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130, error[-2000:]
    said = r"interrupted in finetune at step \d+; to resume: titlesmith run .*-p finetune.steps=100000"
    assert re.search(said, error), error[-600:]


def test_the_parameters_cell_is_not_in_the_fingerprint(papers):
    before = source("finetune")
    path = papers / "notebooks" / "03_finetune.ipynb"
    book = nbformat.read(path, 4)
    (cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = cell.source.replace("steps: int = 250", "steps: int = 300")
    nbformat.write(book, path)
    assert source("finetune") == before
    book.cells[-2].source += "\n1"
    nbformat.write(book, path)
    assert source("finetune") != before


def test_a_changed_parameters_cell_is_a_warning(project):
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "notebooks"], cwd=project, check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *identity, "commit", "-qm", "notebooks"], cwd=project, check=True)
    assert check_parameters_cell("finetune") == []
    path = project / "notebooks" / "03_finetune.ipynb"
    path.write_text(path.read_text().replace("steps: int = 250", "steps: int = 9"))
    (warning,) = check_parameters_cell("finetune")
    assert "differs from the committed one" in warning and str(path) in warning
    path.write_text(path.read_text().replace('"steps: int = 9', '"print(1)\\n",\n    "steps: int = 9'))
    assert "has code that is not a parameter" in check_parameters_cell("finetune")[0]
