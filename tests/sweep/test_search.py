import json
import signal
import subprocess
import sys
import time

import pytest

from titlesmith import sweep
from titlesmith.errors import RequestError
from titlesmith.runs import Run
from titlesmith.sweep.search import Search, Study, read_validations

FILE = """experiment: sample-small
search:
  trials: 3
  metric: loss.valid
  ranges: {finetune.learning_rate: {low: 1e-4, high: 1e-2, log: true}, finetune.batch_size: {choices: [2, 4]}}
"""


def write(project, text: str) -> str:
    path = project / "experiments" / "mine.yml"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_search_is_planned_and_its_ends_are_checked(project):
    plan = sweep.read(write(project, FILE))
    assert plan.total == 3 and not plan.points and plan.keys == ("finetune.learning_rate", "finetune.batch_size")
    assert [point.set["finetune.learning_rate"] for point in plan.ends] == [1e-4, 1e-2]
    assert "3 runs of sample-small, a search by loss.valid" in plan.describe()[0]
    for old, new, message in (
        ("high: 1e-2", "high: 2", "out of range"),
        ("low: 1e-4", "low: 1", "search: needs"),
        ("trials: 3", "trials: none", "search: needs"),
        ("loss.valid", "los.valid", "mean loss.valid"),
        ("loss.valid", "self_bleu", "neither low nor high"),
        ("search:", "set: {finetune.steps: [9]}\nsearch:", "leave out set"),
        ("finetune.batch_size", "finetune.batchsize", "mean batch_size"),
    ):
        with pytest.raises(RequestError, match=message):
            sweep.read(write(project, FILE.replace(old, new)))


def history(name: str, losses: list[float]) -> Run:
    run = Run(name)
    run.path.mkdir(parents=True, exist_ok=True)
    lines = [f"{step},{loss},\n{step + 1},,\n" for step, loss in enumerate(losses)]
    (run / "history.csv").write_text("step,valid_loss,x\n" + "".join(lines) + "9,1", "utf-8")
    return run


def test_trials_that_fall_behind_are_pruned_and_a_study_is_rebuilt(project):
    pytest.importorskip("optuna", reason="needs titlesmith[search]")
    search = Search(9, "loss.valid", {"finetune.learning_rate": {"low": 0.1, "high": 1.0, "log": False}})
    assert read_validations(history("good", [3.0, 2.0])) == [(0, 3.0), (1, 2.0)], "an incomplete line is not read"
    study, record = Study(search, 1, []), []
    for _ in range(5):
        number, values = study.ask()
        assert 0.1 <= float(values["finetune.learning_rate"]) <= 1
        assert not study.falls_behind(number, history(f"s-t{number}", [3.0, 2.0])), "the first ones run to their ends"
        study.tell(number, 2.0, "done")
        setting = {"finetune.learning_rate": float(values["finetune.learning_rate"])}
        record.append({"name": f"s-t{number}", "set": setting, "state": "done", "value": 2.0})
    number, _ = study.ask()
    assert not study.falls_behind(number, history("s-t5", [2.9]))
    assert study.falls_behind(number, history("s-t5", [2.9, 4.0]))
    study.tell(number, None, "pruned")
    narrow = Search(9, "loss.valid", {"finetune.learning_rate": {"low": 0.1, "high": 0.11, "log": False}})
    with pytest.raises(RequestError, match="outside of the ranges, which have changed"):
        Study(narrow, 1, record)
    # A new start has the trials that ended, and runs an interrupted one again with its values
    record[4] |= {"state": "waiting", "value": None}
    record.append({"name": "s-t5", "set": {"finetune.learning_rate": 0.5}, "state": "pruned", "value": None})
    again = Study(search, 1, record)
    assert again.ask() == (4, {"finetune.learning_rate": f"{record[4]['set']['finetune.learning_rate']:.6g}"})
    assert [again.ask()[0] for _ in range(3)] == [6, 7, 8] and again.ask() is None


@pytest.mark.kernel
def test_an_interrupted_search_runs_the_trials_that_are_missing(project, request):
    pytest.importorskip("optuna", reason="needs titlesmith[search]")
    pytest.importorskip("distributed", reason="needs titlesmith[sweep]")
    fixed = "fixed: {finetune.steps: 4, finetune.warmup_steps: 0, generate.count: 2, generate.prefixes: ['']}"
    path, record = (
        write(project, f"{fixed}\n{FILE.replace('trials: 3', 'trials: 2')}"),
        project / "sweeps" / "mine.json",
    )
    command = [sys.executable, "-m", "titlesmith", "sweep", path, "--workers", "1"]

    def ended() -> dict[str, str]:
        rows = json.loads(record.read_text())["runs"] if record.exists() else []
        return {row["name"]: Run(row["name"]).record("evaluate")["ended"] for row in rows if row["state"] == "done"}

    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=project)
    request.addfinalizer(driver.kill)
    while not ended() and driver.poll() is None:
        time.sleep(0.2)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode in (130, 143) and "the same command resumes" in output, output
    before = ended()
    assert list(before) == ["mine-t0"]
    for _ in range(2):  # the second time, nothing is left to run
        finished = subprocess.run(command, capture_output=True, text=True, cwd=project, check=True)
        assert "mine: 2 runs done" in finished.stdout
        assert list(ended()) == ["mine-t0", "mine-t1"] and before.items() <= ended().items(), "none runs twice"
        before = ended()
    assert Run("mine-t1").record("corpus")["taken_from"] == "mine-t0"
    for row in json.loads(record.read_text())["runs"]:
        assert 0 < row["value"] < Run(row["name"]).metrics["perplexity"]["valid"]
        assert Run(row["name"]).info["sweep"]["set"] == row["set"]
