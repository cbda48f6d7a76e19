"""Tiny trainings that the tests of all engines share: their settings, a corpus of made-up papers, and a run of it."""

import pytest

from conftest import corpus_settings
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith import train as engines
from titlesmith.experiment import declared
from titlesmith.generate import Probe
from titlesmith.harvest import harvest
from titlesmith.runs import Run
from titlesmith.train import monitor


def defaults(stage: str) -> dict:
    """The defaults of a stage's parameters."""
    return {name: parameter.default for name, parameter in declared(stage).items()}


TINY = {"n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
SETTINGS = defaults("finetune") | {
    "steps": 8, "loss_floor": 0.0, "batch_size": 4, "block_size": 32, "learning_rate": 0.01, "warmup_steps": 2,
    "save_every": 3, "sample_every": 4, "validate_every": 4, "keep": "last", "vocabulary": "full",
    "precision": "float32", "probe": 4, "lora_dropout": 0.0,
}  # fmt: skip
EVERYTHING = {
    "keep": "best", "accumulate": 2, "dropout": 0.2, "save_every": 2, "validate_every": 3, "checkpointing": True,
    "attention": "document",
}  # fmt: skip


def prepare(name: str, model: str = "", **settings: object) -> tuple[Run, corpora.Corpus]:
    """A run with a corpus of made-up papers, in the vocabulary of a model if there is one."""
    run = Run(name)
    run.begin("harvest", {})
    harvest(run, defaults("harvest") | {"source": "sample", "num_papers": 80})
    run.begin("corpus", {})
    chosen = corpus_settings(split=[0.8, 0.1, 0.1], vocabulary=400, **{"model": model} if model else {}) | settings
    vocabulary, context = (models.vocabulary(model), models.context(model)) if model else (None, 256)
    return run, corpora.build(run, chosen, vocabulary, context)


def train(run: Run, corpus: corpora.Corpus, model: str = "scratch", **settings: object) -> engines.Engine:
    """Trains, or resumes; the engine's ``reason`` says why it stopped."""
    chosen = SETTINGS | {"model": model} | settings
    engine = engines.start_engine(run, model, corpus, 1, chosen["quantize"])
    watch = monitor.Monitor(run, chosen)
    engines.finetune(engine, corpus, chosen, watch, Probe(corpus, chosen))
    engine.reason = watch.reason
    return engine


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the monitor raise KeyboardInterrupt instead of recording a step."""
    record = monitor.Monitor.step

    def killed(self, **row):
        if row["step"] == step:
            raise KeyboardInterrupt
        return record(self, **row)

    monkeypatch.setattr(monitor.Monitor, "step", killed)


def history(run: Run) -> list[dict]:
    """The recorded rows, without times."""
    return [row | {"seconds": 0} for row in monitor.read(run / "history.csv")]
