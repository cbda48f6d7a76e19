import json
import signal
import subprocess
import sys
import time

import pytest

from stages import empty_notebooks
from titlesmith import sweep
from titlesmith.errors import RequestError
from titlesmith.runs import Run, write_json
from titlesmith.sweep.search import Study

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
    assert plan.total == 3 and plan.keys == ("finetune.learning_rate", "finetune.batch_size")
    assert [point.set["finetune.learning_rate"] for point in plan.points] == [1e-4, 1e-2]
    assert "3 runs of sample-small, a search by loss.valid" in plan.describe()[0]
    for old, new, message in (
        ("high: 1e-2", "high: 2", "learning_rate: '2' is not allowed"),
        ("low: 1e-4", "low: 1", "search: .* the form"),
        ("trials: 3", "trials: none", "trials: 'none' is not allowed"),
        ("loss.valid", "los.valid", "mean loss.valid"),
        ("loss.valid", "self_bleu", "neither low nor high"),
        ("search:", "set: {finetune.steps: [9]}\nsearch:", "leave out set"),
        ("finetune.batch_size", "finetune.batchsize", "mean finetune.batch_size"),
        ("log: true", "log: maybe", "search: .*maybe.* the form"),
    ):
        with pytest.raises(RequestError, match=message):
            sweep.read(write(project, FILE.replace(old, new)))


class Stub(Run):
    """A run whose stages count as done."""

    def is_current(self, stage: str) -> bool:
        return True


def history(name: str, losses: list[float]) -> Run:
    run = Run(name)
    run.path.mkdir(parents=True, exist_ok=True)
    lines = [f"{step},{loss}\n{step + 1},\n" for step, loss in enumerate(losses)]
    (run / "history.csv").write_text("step,valid_loss\n" + "".join(lines) + "9,1", "utf-8")
    return run


RATE = "{trials: 9, metric: loss.valid, ranges: {finetune.learning_rate: {low: 0.1, high: 1.0}}}"


def test_trials_that_fall_behind_are_pruned_and_a_study_is_rebuilt(project):
    pytest.importorskip("optuna", reason="needs titlesmith[search]")
    path = write(project, f"experiment: sample-small\nsearch: {RATE}")
    study, record = Study(sweep.read(path)), []
    for number in range(6):
        point = study.ask()
        assert point.name == f"mine-t{number}" and 0.1 <= point.set["finetune.learning_rate"] <= 1
        record.append({"name": point.name, "set": point.set, "state": "done", "value": 2.0})
        if number < 5:
            assert not study.falls_behind(history(point.name, [3.0, 2.0])), "the first ones run to their ends"
            write_json(Run(point.name) / "metrics.json", {"perplexity": {"valid": 7.389}})
            assert study.tell(Stub(point.name), "done") == pytest.approx(2, abs=0.001)
    assert not study.falls_behind(history("mine-t5", [2.9])), "an incomplete line is not read"
    assert study.falls_behind(history("mine-t5", [2.9, 4.0]))
    assert study.tell(Run("mine-t5"), "pruned") is None
    # A new start has the trials that ended, and runs an interrupted one again with its values
    for row in record:
        Run(row["name"]).update(sweep={"name": "mine", "set": row["set"]})
    record[4] |= {"state": "waiting", "value": None}
    record[5] |= {"state": "pruned", "value": None}
    write_json(project / "sweeps" / "mine.json", {"runs": record})
    again = Study(sweep.read(path))
    assert again.results.keys() == {f"mine-t{number}" for number in (0, 1, 2, 3, 5)}
    assert (first := again.ask()).name == "mine-t4" and first.set == record[4]["set"]
    assert [again.ask().name for _ in range(3)] == ["mine-t6", "mine-t7", "mine-t8"] and again.ask() is None
    path = write(project, f"experiment: sample-small\nsearch: {RATE.replace('1.0', '0.10001')}")
    with pytest.raises(RequestError, match="outside of the ranges, which have changed"):
        Study(sweep.read(path))


@pytest.mark.kernel
def test_an_interrupted_search_runs_the_trials_that_are_missing(project, request):
    pytest.importorskip("optuna", reason="needs titlesmith[search]")
    pytest.importorskip("distributed", reason="needs titlesmith[sweep]")
    empty_notebooks(project)
    path, record = write(project, FILE.replace("trials: 3", "trials: 2")), project / "sweeps" / "mine.json"
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
    finished = subprocess.run(command, capture_output=True, text=True, cwd=project, check=True)
    assert "mine: 2 runs done" in finished.stdout
    assert list(ended()) == ["mine-t0", "mine-t1"] and before.items() <= ended().items(), "none runs twice"
    assert Study(sweep.read(path)).ask() is None, "nothing is left to run"
    assert Run("mine-t1").record("corpus")["taken_from"] == "mine-t0"
    for row in json.loads(record.read_text())["runs"]:
        assert 0 < row["value"] < Run(row["name"]).metrics["perplexity"]["valid"]
        assert Run(row["name"]).info["sweep"]["set"] == row["set"]
