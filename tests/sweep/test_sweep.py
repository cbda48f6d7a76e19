import gc
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from stages import empty_notebooks
from titlesmith import cli, sweep
from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.experiment import Experiment
from titlesmith.runs import STAGES, Run, hold, release
from titlesmith.sweep import cluster
from titlesmith.sweep.plan import Point, group

pytest.importorskip("distributed", reason="needs titlesmith[sweep]")


def quiet(line: str) -> None:
    pass


# The grid


def test_every_combination_is_a_run_that_its_values_name(project):
    plan = sweep.read("sample-titles", ("finetune.learning_rate=1e-4,5e-5", "finetune.batch_size=1,8"))
    assert plan.name == "sample-titles-learning_rate-batch_size"
    assert [point.name.removeprefix(plan.name) for point in plan.points] == [
        "-0.0001-1", "-0.0001-8", "-5e-05-1", "-5e-05-8",
    ]  # fmt: skip
    for point in plan.points:
        training = point.experiment.settings["finetune"]
        assert {f"finetune.{key}": training[key] for key in ("learning_rate", "batch_size")} == point.set
        assert Run(point.name).name == point.name


def test_a_repeat_has_other_seeds_and_the_same_papers(project):
    points = sweep.read("sample-titles", ("finetune.steps=10,20",), ("seed=5",), repeat=3, name="r").points
    assert [point.name for point in points] == ["r-10-r1", "r-10-r2", "r-10-r3", "r-20-r1", "r-20-r2", "r-20-r3"]
    seeds = [{stage: point.experiment.settings[stage].get("seed") for stage in STAGES} for point in points[:3]]
    assert [s["finetune"] for s in seeds] == [s["generate"] for s in seeds] == [5, 6, 7]
    assert {s["harvest"] for s in seeds} == {s["corpus"] for s in seeds} == {5}


def test_lists_and_values_with_commas_are_yaml(project):
    plan = sweep.read("sample-titles", ('generate.prefixes=[["", Neural], [Music]]', "model=scratch"), name="p")
    assert [point.set["generate.prefixes"] for point in plan.points] == [["", "Neural"], ["Music"]]
    assert all(point.set["model"] == "scratch" for point in plan.points)
    assert len({point.name for point in plan.points}) == 2
    typed = ["On", "12:30", "What is AI?", "Deep: a study", "#1 x", "Deep ", "null", "[x", "- a", '"q"']
    for sets in (f"generate.prefixes={','.join(typed)}", f"generate.prefixes={json.dumps(typed)}"):
        plan = sweep.read("sample-titles", (sets,), name="t")
        assert [point.set["generate.prefixes"] for point in plan.points] == [[text] for text in typed]
    plan = sweep.read("sample-titles", ("harvest.categories=eess.AS,cs.CL",), name="c")
    assert [point.set["harvest.categories"] for point in plan.points] == [["eess.AS"], ["cs.CL"]]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("finetune.batchsize=1,2",), r"finetune\.batchsize is unknown\. Did you mean finetune\.batch_size\?"),
        (("finetun.steps=1,2",), r"Did you mean finetune\.steps"),
        (("steps=1,2",), r"Did you mean finetune\.steps"),
        (("finetune.steps",), "it needs the form section.key=value"),
        (("finetune.steps=10,many",), "'many' is not allowed"),
        (("finetune.steps=10,-1",), "'-1' is not allowed"),
        (("finetune.steps=",), r"sample-titles: finetune\.steps=: finetune\.steps: '' is not allowed"),
        (("learning_rate=1e-3",), r"Did you mean finetune\.learning_rate\?"),
        (
            ("finetune.steps=9", "finetune.batch_size=2,2"),
            "are the same, sample-titles-steps-batch_size-9-2: remove the repeated value",
        ),
        (("finetune.block_size=64,512",), "512 exceeds the model's context"),
        (("finetune.learning_rate=1e-4,0.0001",), "two runs of this sweep are the same"),
        (("finetune.steps=[1",), "'\\[1' is not allowed"),
        ((), "nothing is varied"),
        (
            (
                "finetune.steps=" + ",".join(map(str, range(1, 301))),
                "finetune.batch_size=" + ",".join(map(str, range(1, 301))),
            ),
            "the sweep has 90,000 runs, and at most 1,000",
        ),
    ],
)
def test_a_mistake_is_reported_before_anything_runs(project, sets, message):
    begun = time.monotonic()
    with pytest.raises(RequestError, match=message) as error:
        sweep.read("sample-titles", sets)
    assert time.monotonic() - begun < 1 and len(str(error.value)) < 1000
    assert not (project / "runs").exists() and not (project / "sweeps").exists()


def write(project, text: str) -> str:
    path = project / "experiments" / "mine.yml"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_sweep_file_sets_the_same_values(project):
    path = write(project, "experiment: sample-titles\nset: {finetune.learning_rate: [1e-4, 0.002]}\nrepeat: 2\n")
    plan = sweep.read(path)
    assert [point.name for point in plan.points] == [f"mine-{rate}-r{n}" for rate in (0.0001, 0.002) for n in (1, 2)]
    assert [p.set for p in sweep.read(path, ("finetune.steps=9",), repeat=1).points] == [
        {"finetune.learning_rate": rate, "finetune.steps": 9} for rate in (0.0001, 0.002)
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sett: {finetune.steps: [1]}", "key 'sett' is unknown. Did you mean set"),
        ("experiment: sample-title\nset: {finetune.steps: [1]}", "did you mean sample-titles"),
        ("set: {finetune.steps: 1}", "set: .* does not have the form"),
        ("set: {finetune.stepz: [1]}", r"mine\.yml: finetune\.stepz=1: .* mean finetune.steps"),
        ("set: {finetune.steps: [1]}\nrepeat: many", "repeat: 'many' is not allowed"),
        ("set: {finetune.steps: [1]}\nreference: [{perplexity: 1}]", "reference: .* the form"),
        ("reference: [{source: a, perplexty: {test: 1}}]", "mean perplexity"),
        ("reference: [{source: a, set: {steps: 1}, hours: 1}]", "reference: steps is unknown"),
        ("plot: [{x: copyrate, y: self_bleu}]", "mean copy_rate"),
        ("plot: [copy_rate]", "plot: .* the form"),
        ("cases: {a: {finetune.stepz: 1}}", r"finetune\.stepz=1: .* mean finetune\.steps"),
        ("cases: {a: 1}", "cases: .* the form"),
        ("fixed: [1]", "fixed: .* the form"),
        (
            "cases: {a: {finetune.steps: 1}}\nset: {finetune.steps: [2]}",
            "finetune.steps is varied, and case a sets it",
        ),
    ],
)
def test_a_mistake_in_a_sweep_file_is_reported(project, text, message):
    beginning = "" if text.startswith("experiment") else "experiment: sample-titles\n"
    with pytest.raises(RequestError, match=message):
        sweep.read(write(project, beginning + text))


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "sweeps").glob("*.yml")), ids=lambda path: path.stem)
def test_the_sweep_files_are_valid(project, path):
    plan = sweep.read(f"sweeps/{path.stem}", remarks=(remarks := []))
    assert len(plan.points) >= 2 and plan.name == path.stem
    missing = ("harvest.path: source ", "finetune.quantize: ", "model: hf:")  # on this machine
    assert all(remark.startswith(missing) for remark in remarks)


def test_values_of_a_case_vary_together_beside_the_grid(project):
    text = """experiment: sample-titles
fixed: {finetune.warmup_steps: 0}
cases:
  low: {finetune.batch_size: 1, finetune.learning_rate: 1e-5}
  high: {finetune.batch_size: 8, finetune.learning_rate: 1e-4}
set: {finetune.steps: [9, 10]}
reference:
  - {set: {case: low, finetune.steps: "9"}, loss: {test: 3}, hours: 2, source: a}
"""
    plan = sweep.read(write(project, text))
    assert [point.name for point in plan.points] == ["mine-low-9", "mine-low-10", "mine-high-9", "mine-high-10"]
    assert plan.points[2].set == {"case": "high", "finetune.steps": 9}
    chosen = [point.experiment.settings["finetune"] for point in plan.points]
    assert [(own["batch_size"], own["learning_rate"]) for own in chosen] == [(1, 1e-5)] * 2 + [(8, 1e-4)] * 2
    assert all(own["warmup_steps"] == 0 for own in chosen)
    assert plan.file.reference == [
        {"set": {"case": "low", "finetune.steps": 9}, "source": "a", "loss.test": 3, "hours": 2}
    ]
    assert "mine-high-9: case high, finetune.steps 9, finetune.batch_size 8" in "\n".join(plan.describe())


def test_a_dry_run_says_what_is_missing_and_runs_nothing(project, capsys):
    cli.runs.sweep("sweeps/decoding", dry_run=True)
    out = capsys.readouterr().out
    assert out.count("finetune from decoding-0.5-0.8-1") == 17, "one model is trained"
    assert "missing: harvest.path: source archive reads a file" in out
    assert not (project / "runs").exists() and not (project / "sweeps").exists()
    with pytest.raises(RequestError, match=r"finetune\.steps"):
        cli.runs.sweep("sample-titles", sets=["finetune.steps=1,x"], dry_run=True)


def test_a_run_of_something_else_is_not_overwritten(project):
    Run("mine-1").update(model="x")
    for owner in (None, {"name": "another", "set": {"finetune.steps": 1}}, {"name": "mine", "set": {"seed": 1}}):
        Run("mine-1").update(**{"sweep": owner} if owner else {})
        said = f"a run of the sweep {owner['name']} of" if owner else "a run of no sweep"
        with pytest.raises(RequestError, match=f"mine-1 is {said}.*--name"):
            sweep.read("sample-titles", ("finetune.steps=1,2",), name="mine")
    Run("mine-1").update(sweep={"name": "mine", "set": {"finetune.steps": 1}})
    assert len(sweep.read("sample-titles", ("finetune.steps=1,2",), name="mine").points) == 2


# Shared stages


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=1, max_size=8, unique=True))
def test_runs_with_the_same_settings_up_to_a_stage_are_a_group(grid):
    points = []
    for number, values in enumerate(grid):
        settings = {stage: {"value": value} for stage, value in zip(STAGES, (0, *values, 0), strict=True)}
        points.append(Point(f"r{number}", {}, 1, Experiment("e", None, settings)))
    for name, groups in group(points).items():
        own = grid[int(name[1:])]
        for number, names in enumerate(groups.values()):
            assert names == [f"r{i}" for i, other in enumerate(grid) if other[:number] == own[:number]]


# Workers of this machine


def test_there_are_as_many_workers_as_fit_into_memory_and_cores(project, monkeypatch):
    plan = sweep.read("sample-titles", ("finetune.batch_size=1,2,4,8,16",))
    need = max(cluster.estimate_memory(point.experiment.settings) for point in plan.points)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    assert cluster.choose_num_workers(plan, None, str(3 * need)) == 3
    assert cluster.choose_num_workers(plan, None, str(100 * need)) == 5, "no more than runs"
    assert cluster.choose_num_workers(plan, 2, None) == 2
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "estimate_memory", lambda settings: 0)
        assert cluster.choose_num_workers(plan, None, "8GB") == 1, "the needed memory is unknown"
    for memory, message in (("much", "needs a size"), ("1MB", "smallest")):
        with pytest.raises(RequestError, match=message):
            cluster.choose_num_workers(plan, None, memory)


# On workers


def until(check, seconds: float = 300):
    """The first true value of a check."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not so after {seconds} s")


def kernel_of(process: psutil.Process, names) -> str | None:
    """The one of these runs whose stage a worker's kernel executes."""
    locks = {str(Run(name) / ".stage.lock"): name for name in names}
    for child in process.children(recursive=True):
        try:
            if found := locks.keys() & {file.path for file in child.open_files()}:
                return locks[found.pop()]
        except psutil.Error:
            continue
    return None


@pytest.fixture
def dask(project, tmp_path_factory):
    """A scheduler and two workers in separate processes; the scheduler's address, and the workers."""
    folder = tmp_path_factory.mktemp("dask")
    command = [sys.executable, "-m"]
    environment = {k: v for k, v in os.environ.items() if k != "TITLESMITH_ROOT"}
    everywhere = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    file = folder / "scheduler.json"
    words = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    processes = [subprocess.Popen([*command, *words, "--scheduler-file", str(file)], **everywhere)]
    until(file.exists)
    words = ["distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny"]
    processes += [subprocess.Popen([*command, *words, "--no-dashboard"], **everywhere) for _ in range(2)]
    address = json.loads(file.read_text())["address"]
    yield address, [psutil.Process(process.pid) for process in processes[1:]]
    for process in reversed(processes):
        process.kill()
        process.wait()


def test_the_run_of_a_killed_worker_is_executed_by_another(project, dask, request):
    empty_notebooks(project, corpus="import time; time.sleep(2)")
    address, workers = dask
    plan = sweep.read("sample-titles", ("corpus.min_words=1,2",), name="k", until="corpus")
    names = [point.name for point in plan.points]
    words = ["sweep", "sample-titles", "--set", "corpus.min_words=1,2", "--name", "k", "--until", "corpus"]
    command = [sys.executable, "-m", "titlesmith", *words, "--scheduler", address]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=project)
    request.addfinalizer(driver.kill)

    def corpus_of(process):
        name = kernel_of(process, names)
        return name and Run(name).record("corpus").get("status") == "running" and name

    victim, lost = until(lambda: next(((w, n) for w in workers if (n := corpus_of(w))), None))
    victim.send_signal(signal.SIGKILL)
    # The same sweep cannot be started a second time, and the first continues
    with pytest.raises(RunError, match=r"\.k is in use"):
        sweep.run(plan, address, echo=quiet)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert f"{lost}: done" in output
    for name in names:
        assert Run(name).is_current("corpus") and Run(name).executed("corpus").exists()
    takers = {Run(name).record("harvest").get("taken_from") for name in names}
    assert None in takers and takers & set(names), "the harvest was executed once"
    record = json.loads((project / "sweeps" / "k.json").read_text())
    assert record["state"] == "done" and {run["state"] for run in record["runs"]} == {"done"}
    assert Run(names[1]).info["sweep"] == {"name": "k", "set": {"corpus.min_words": 2}, "repeat": 1}


def test_an_interrupted_sweep_ends_its_kernels_and_leaves_the_workers(project, dask, request):
    empty_notebooks(project, corpus="import time; time.sleep(60)")
    address, workers = dask
    words = ["sweep", "sample-titles", "--set", "corpus.min_words=1,2", "--name", "i", "--until", "corpus"]
    command = [sys.executable, "-m", "titlesmith", *words, "--scheduler", address]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=project)
    request.addfinalizer(driver.kill)
    until(lambda: sum(kernel_of(w, ["i-1", "i-2"]) is not None for w in workers) == 2)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "the same command resumes" in output
    assert [len(worker.children(recursive=True)) for worker in workers] == [0, 0]
    assert json.loads((project / "sweeps" / "i.json").read_text())["state"] == "interrupted"
    for name in ("i-1", "i-2"):  # not locked, and without a result
        hold(Run(name) / ".chain.lock")
        release(Run(name) / ".chain.lock")
        assert not Run(name).executed("corpus").exists()


def test_a_failed_run_fails_alone_and_only_it_is_run_again(project):
    empty_notebooks(project, corpus="assert min_words < 99")
    plan = sweep.read("sample-titles", ("corpus.min_words=1,99,2",), name="f", until="corpus")
    with pytest.raises(RunError, match=r"1 of 3 runs of sweep f failed.*\n  f-99: corpus failed in") as error:
        sweep.run(plan, workers=2, echo=quiet)
    assert str(Run("f-99") / "notebooks") in str(error.value), "where the failed notebook can be opened"
    states = {r["name"]: r["state"] for r in json.loads((project / "sweeps" / "f.json").read_text())["runs"]}
    assert states == {"f-1": "done", "f-99": "failed", "f-2": "done"}
    before = {name: Run(name).record("corpus")["ended"] for name in ("f-1", "f-2")}
    papers = [(Run(name) / "papers.parquet").stat().st_ino for name in states]
    assert len(set(papers)) == 1, "one file, three names"
    # With an additional value, and without the one that fails, only the missing run is executed
    plan = sweep.read("sample-titles", ("corpus.min_words=1,2,3",), name="f", until="corpus")
    done = sweep.run(plan, workers=2, echo=quiet)
    assert [run["name"] for run in done["runs"]] == ["f-1", "f-2", "f-3"]
    assert {name: Run(name).record("corpus")["ended"] for name in ("f-1", "f-2")} == before


def test_a_missing_scheduler_is_reported_within_seconds(project, capfd):
    plan = sweep.read("sample-titles", ("finetune.steps=1,2",))
    begun = time.monotonic()
    with pytest.raises(FetchError, match=r"no Dask scheduler answers at .tcp://127\.0\.0\.1:9. .*`dask scheduler`"):
        sweep.run(plan, "tcp://127.0.0.1:9", echo=quiet)
    assert time.monotonic() - begun < 3 * cluster.TIMEOUT
    for address in ("nonsense://x", "banana", "tcp://host:port"):
        with pytest.raises(FetchError, match="its address, such as tcp://"):
            sweep.run(plan, address, echo=quiet)
    with pytest.raises(RequestError, match="--scheduler has its own workers"):
        sweep.run(plan, "tcp://127.0.0.1:9", workers=2, echo=quiet)
    gc.collect()
    assert not [*(project / "sweeps").glob("*.json")] and not capfd.readouterr().err, "no file and no further message"


def test_without_dask_the_extra_is_named(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RequestError, match=r"pip install 'dask>="):
        sweep.run(sweep.read("sample-titles", ("finetune.steps=1,2",)), echo=quiet)


def test_the_small_sweep_file_trains_two_models_on_one_corpus(project):
    plan = sweep.read("sweeps/small")
    assert [point.experiment.settings["finetune"]["batch_size"] for point in plan.points] == [2, 4]
    assert "; harvest, corpus from small-2" in plan.describe()[-1]
