"""Several processes that train one model, over gloo: the same as one process, and reported when one fails."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import pytest
import torch

from titlesmith import models
from titlesmith.corpus import Corpus
from titlesmith.errors import RequestError, RunError
from titlesmith.experiment import Experiment, find
from titlesmith.finetune import finetune_run
from titlesmith.runs import Run, root
from titlesmith.train import architectures, monitor
from titlesmith.train.huggingface import HuggingFaceEngine
from train import helpers
from train.helpers import SETTINGS, TINY

CHOSEN = SETTINGS | {
    "model": "hf:tiny", "steps": 6, "save_every": 2, "validate_every": 3, "sample_every": 3, "keep": "best", "probe": 3,
}  # fmt: skip
TWO = {"processes": 2}


def prepare(name: str) -> tuple[Run, Corpus]:
    run, corpus = helpers.prepare(name)
    folder = root() / "models" / "tiny"
    if not folder.exists():
        architectures.scratch(corpus.tokenizer, TINY | {"n_vocab": len(corpus.tokenizer)}, 1).save_pretrained(folder)
        corpus.tokenizer.save(folder)
    return run, corpus


def train(run: Run, **settings) -> None:
    settings = CHOSEN | settings
    run.begin("finetune", settings)
    finetune_run(run, settings)


def history(run: Run) -> np.ndarray:
    keys = ("step", "tokens", "loss", "grad_norm", "learning_rate", "valid_loss")
    return np.array([[row[key] or 0 for key in keys] for row in monitor.read(run / "history.csv")])


def programs(process: psutil.Process) -> list[psutil.Process]:
    """The processes that train below a process, without torchrun."""
    children = process.children(recursive=True)
    return [
        child for child in children if child.cmdline()[1:3] == ["-m", "titlesmith.finetune"] or "-u" in child.cmdline()
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 2, "checkpointing": True},
        {"sharding": "full", "keep": "best"},
        {"lora_rank": 2, "sharding": "full"},
    ],
    ids=["ddp", "fsdp", "fsdp-lora"],
)
def test_two_processes_train_and_resume_like_one(project, monkeypatch, settings):
    (alone, _), (both, _) = prepare("alone"), prepare("both")
    train(alone, **settings)
    if settings.get("keep"):  # they resume a training of one process, which dies at step 3, one after its checkpoint

        def killed(self, step, texts):
            raise SystemExit

        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(monitor.Monitor, "sample", killed)
            train(both, **settings)
    train(both, **settings, **TWO)
    assert np.allclose(history(alone), history(both), rtol=1e-5, atol=1e-5) and len(history(both)) == 6
    assert {f.name for f in (alone / "model").iterdir()} == {f.name for f in (both / "model").iterdir()}
    ids, weights = np.arange(40).reshape(2, 20), np.ones((2, 19), np.float32)
    nats = [HuggingFaceEngine.load(run / "model", resume=False).losses(ids, weights) for run in (alone, both)]
    assert np.allclose(*nats, rtol=1e-4)
    samples = [[p.read_text() for p in sorted((run / "samples").iterdir())] for run in (alone, both)]
    assert samples[0] == samples[1]
    facts = [
        {key: run.record("finetune")[key] for key in ("steps", "kept_step", "stop_reason")} for run in (alone, both)
    ]
    assert facts[0] == facts[1] and "2 processes" in both.record("finetune")["device"]


def test_a_killed_process_is_reported_within_seconds_and_one_process_resumes(project):
    (run, _), (full, _), killed = prepare("r"), prepare("full"), []
    settings = {"schedule": "constant", "sample_every": 0, "validate_every": 0}

    def kill():
        while not (run / "model" / "last" / "titlesmith.pt").exists():
            time.sleep(0.01)
        one = next(p for p in programs(psutil.Process()) if p.environ().get("RANK") == "1")
        killed.append(time.monotonic())
        one.kill()

    Thread(target=kill, daemon=True).start()
    with pytest.raises(RunError, match=r"process 1 was killed by signal 9.*The last checkpoint is complete"):
        train(run, **settings, **TWO, sharding="full", steps=100_000)
    assert time.monotonic() - killed[0] < 10 and not programs(psutil.Process())
    state = torch.load(run / "model" / "last" / "titlesmith.pt", weights_only=True)
    settings["steps"] = state["step"] + 3
    train(run, **settings)
    train(full, **settings)
    assert np.allclose(history(full), history(run), rtol=1e-4, atol=1e-4)


def test_settings_that_several_processes_cannot_have_are_refused():
    for settings, said in [
        ({"model": "124M"}, "processes: only smollm2 and hf: models have it; set it to 1 for 124M"),
        ({"batch_size": 10, "processes": 4}, "10 rows cannot be divided by 4 processes; use 12"),
        ({"sharding": "full", "quantize": "4bit"}, "4bit weights cannot be sharded"),
    ]:
        with pytest.raises(RequestError, match=said):
            models.check_training(CHOSEN | TWO | settings)
    with pytest.raises(RequestError, match="3 processes"):
        Experiment.read(find("sample-titles"), ("model=hf:scratch", "finetune.processes=3"))
    made = Run("r").fingerprint("finetune", CHOSEN, "")
    assert made == Run("r").fingerprint("finetune", CHOSEN | TWO | {"sharding": "full"}, ""), "either resumes the other"


def test_an_error_of_a_process_is_raised(project):
    run, _ = prepare("r")
    (run / "corpus" / "corpus.json").rename(run / "corpus" / "gone.json")
    with pytest.raises(RunError, match=r"corpus\.json"):
        train(run, **TWO)


NOTEBOOK = """
import sys
sys.path[:0] = {paths!r}
from train.test_distributed import TWO, train
from titlesmith.runs import Run
train(Run("r"), **TWO, steps=100_000)
"""


def test_no_process_outlives_the_notebook(project):
    run, _ = prepare("r")
    code = NOTEBOOK.format(paths=[str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")])
    notebook = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + 100
        while len(history(run) if (run / "history.csv").exists() else ()) < 3 and time.monotonic() < end:
            assert notebook.poll() is None, notebook.stderr.read().decode()
            time.sleep(0.1)
        children = psutil.Process(notebook.pid).children(recursive=True)
        assert len(children) >= 3
    finally:
        notebook.send_signal(signal.SIGKILL)
        notebook.communicate()
    assert not psutil.wait_procs(children, timeout=5)[1]
