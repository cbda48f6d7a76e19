"""Several processes that train one model, over gloo: like one process, whatever happens to them."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from conftest import SMALL, corpus_settings
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith import train as engines
from titlesmith.corpus.pretrained import published
from titlesmith.errors import RequestError, RunError
from titlesmith.experiment import Experiment, declared, find
from titlesmith.generate import Probe
from titlesmith.harvest import harvest
from titlesmith.runs import Run, root
from titlesmith.train import architectures, monitor
from titlesmith.train import distributed as processes

HARVEST = {
    "source": "sample",
    "num_papers": 80,
    "categories": [],
    "since": "",
    "until": "",
    "max_results": 0,
    "seed": 1,
}
CORPUS = corpus_settings(split=[0.8, 0.1, 0.1], vocabulary=400)
SETTINGS = {name: parameter.default for name, parameter in declared("finetune").items()} | {
    "model": "hf:tiny", "steps": 6, "batch_size": 4, "block_size": 32, "warmup_steps": 2, "loss_floor": 0.0,
    "precision": "float32", "save_every": 2, "validate_every": 3, "sample_every": 3, "probe": 3,
}  # fmt: skip
TINY = {"n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
TWO = {"processes": 2}
LORA = {"lora_rank": 2, "lora_dropout": 0.0}


def prepare(name: str) -> tuple[Run, corpora.Corpus]:
    run = Run(name)
    run.begin("harvest", {})
    harvest(run, HARVEST)
    run.begin("corpus", {})
    corpus = corpora.build(run, CORPUS, None, context=64)
    folder = root() / "models" / "tiny"
    if not folder.exists():
        architectures.scratch(corpus.tokenizer, TINY | {"n_vocab": len(corpus.tokenizer)}, 1).save_pretrained(folder)
        published(corpus.tokenizer).save(folder)
    return run, corpus


def train(run, corpus, **settings) -> engines.Engine:
    settings = SETTINGS | settings
    engine = engines.start_engine(run, settings["model"], corpus, settings["seed"])
    engines.finetune(engine, corpus, settings, monitor.Monitor(run, settings), Probe(corpus, settings))
    return engine


@pytest.fixture(scope="module")
def workers():
    with processes.started(2) as found:
        yield found


@pytest.fixture
def together(workers, monkeypatch):
    """Trainings of two processes have the same worker, which takes seconds to start."""

    @contextmanager
    def same(size):
        assert size == 2
        yield workers

    monkeypatch.setattr(processes, "started", same)


def history(run: Run) -> np.ndarray:
    keys = ("step", "tokens", "loss", "grad_norm", "learning_rate", "valid_loss")
    return np.array([[row[key] or 0 for key in keys] for row in monitor.read(run / "history.csv")])


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 2, "checkpointing": True},
        {"sharding": "full", "accumulate": 2, "keep": "best"},
        LORA,
        LORA | {"sharding": "full", "keep": "last"},
    ],
    ids=["ddp", "fsdp", "ddp-lora", "fsdp-lora"],
)
def test_two_processes_train_like_one(project, together, settings):
    alone, both = prepare("alone"), prepare("both")
    one, two = train(*alone, **settings), train(*both, **settings, **TWO)
    assert np.allclose(history(alone[0]), history(both[0]), rtol=1e-5, atol=1e-5)
    assert len(history(both[0])) == two.step == 6
    files = [{f.name for f in (run / "model").iterdir()} for run in (alone[0], both[0])]
    assert files[0] == files[1]
    ids, learned = np.arange(40).reshape(2, 20), np.ones((2, 19), np.float32)
    loaded = engines._kind("hf:")[0].load(both[0] / "model", resume=False)
    for engine in (two, loaded):
        assert np.allclose(one.losses(ids, learned), engine.losses(ids, learned), rtol=1e-4)
    assert [p.read_text() for p in (alone[0] / "samples").iterdir()] == [
        p.read_text() for p in (both[0] / "samples").iterdir()
    ]


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("first", [1, 2])
def test_what_one_process_began_two_end_and_the_other_way_round(project, together, monkeypatch, first, sharding):
    whole, changed = prepare("whole"), prepare("changed")
    train(*whole)

    def killed(self, step, texts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(monitor.Monitor, "sample", killed)
        train(*changed, processes=first, sharding=sharding)  # dies at step 3, one behind its checkpoint
    state = torch.load(changed[0] / "model" / "last" / "titlesmith.pt", weights_only=True)
    assert state["step"] == 2 and all(type(m["exp_avg"]) is torch.Tensor for m in state["optimizer"]["state"].values())
    train(*changed, processes=3 - first, sharding=sharding)
    assert np.allclose(history(whole[0]), history(changed[0]), rtol=1e-5, atol=1e-5)


def test_dropout_differs_between_processes_and_comes_again(project, together):
    settings = LORA | TWO | {"lora_dropout": 0.5, "steps": 2}
    runs = [prepare(name) for name in ("a", "b")]
    for run in runs:
        train(*run, **settings)
    assert np.array_equal(history(runs[0][0]), history(runs[1][0]))


def test_what_cannot_be_shared_is_refused():
    for settings, said in [
        ({"model": "124M"}, "124M trains in one process.*hf:"),
        ({"batch_size": 10, "processes": 4}, "10 rows cannot be shared by 4 processes; 8 or 12 can"),
        ({"batch_size": 2, "processes": 4}, "; 4 can"),
        ({"sharding": "full", "quantize": "4bit"}, "4bit cannot be spread"),
    ]:
        with pytest.raises(RequestError, match=said):
            models.check_processes(SETTINGS | TWO | settings)
    with pytest.raises(RequestError, match="3 processes"):
        Experiment.read(find("sample-titles"), ("model=hf:scratch", "finetune.processes=3"))
    made = Run("r").fingerprint("finetune", SETTINGS, "")
    assert made == Run("r").fingerprint("finetune", SETTINGS | TWO | {"sharding": "full"}, ""), (
        "either resumes the other"
    )


def test_a_killed_worker_ends_the_training_within_seconds(project, monkeypatch):
    run, corpus = prepare("r")
    threads = torch.get_num_threads()
    killed, others = [], set(psutil.Process().children())

    def kill(self, step, texts):
        killed.append(time.monotonic())
        for child in set(psutil.Process().children()) - others:
            if "titlesmith.train.worker" in child.cmdline():
                child.kill()

    monkeypatch.setattr(monitor.Monitor, "sample", kill)
    with pytest.raises(RunError, match=r"process 1 was killed by signal 9.*The last checkpoint is whole"):
        train(run, corpus, **TWO)
    assert killed and time.monotonic() - killed[0] < 10
    assert len(history(run)) == 3 and (run / "model" / "last").exists()
    assert torch.get_num_threads() == threads and not torch.distributed.is_initialized()


def test_a_worker_that_cannot_start_says_why(project, together, monkeypatch):
    run, corpus = prepare("r")
    engine = engines.start_engine(run, "hf:tiny", corpus, 1)
    (run / "corpus" / "corpus.json").rename(run / "corpus" / "gone.json")
    with pytest.raises(RunError, match=r"process 1 failed: .*corpus\.json"):
        engines.finetune(engine, corpus, SETTINGS | TWO, monitor.Monitor(run, SETTINGS), Probe(corpus, SETTINGS))


RANK_0 = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from engines.test_processes import SETTINGS, TWO, train
from titlesmith.corpus import Corpus
from titlesmith.runs import Run
train(Run("r"), Corpus(Run("r")), **TWO, steps=100_000)
"""


def test_no_worker_outlives_rank_0(project):
    run, _ = prepare("r")
    rank_0 = subprocess.Popen(
        [sys.executable, "-c", RANK_0.format(tests=str(Path(__file__).parents[1]))],
        stderr=subprocess.PIPE,
    )
    try:
        until = time.monotonic() + 60
        while len(history(run) if (run / "history.csv").exists() else ()) < 3 and time.monotonic() < until:
            assert rank_0.poll() is None, rank_0.stderr.read().decode()
            time.sleep(0.1)
        children = psutil.Process(rank_0.pid).children()
        assert any("titlesmith.train.worker" in child.cmdline() for child in children)
    finally:
        rank_0.send_signal(signal.SIGKILL)
        rank_0.communicate()
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_the_whole_command_under_torchrun(project, archive):
    overrides = [*SMALL, "model=hf:scratch", f"harvest.path={archive}", "finetune.precision=float32"]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "titlesmith", "run"]
    words = [sys.executable, *command, "archive-titles", *(word for o in overrides for word in ("-p", o))]
    found = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=project)
    assert found.returncode == 0, found.stdout + found.stderr
    run = Run("archive-titles")
    assert run.complete and run.record("finetune")["settings"]["processes"] == 2
    assert "2 processes" in run.executed("finetune").read_text("utf-8")
    again = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=project)
    assert again.returncode == 0 and "[3/5] finetune: unchanged, skipped" in again.stdout
