"""What every engine does, tried on each of them: one suite, so that notebooks need not know which one they have."""

import math
import shutil

import numpy as np
import pytest

from conftest import corpus_settings
from titlesmith import corpus as corpora
from titlesmith import train as engines
from titlesmith.errors import RequestError, RunError
from titlesmith.generate import Probe
from titlesmith.harvest import harvest
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.train import kernels, monitor
from titlesmith.train.packing import PackedDataset

KINDS = ["scratch", "hf:scratch"]
TINY = {"n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
SETTINGS = {
    "steps": 8, "loss_floor": 0.0, "batch_size": 4, "block_size": 32, "learning_rate": 0.01, "warmup_steps": 2,
    "schedule": "cosine", "seed": 1, "save_every": 3, "sample_every": 4, "validate_every": 4, "epochs": 0.0,
    "patience": 0, "keep": "last", "accumulate": 1, "weight_decay": 0.01, "dropout": 0.0, "layers": "all",
    "vocabulary": "full", "precision": "float32", "checkpointing": False, "probe": 4, "attention": "auto",
    "train_on_prompt": False, "lora_rank": 0, "lora_alpha": 16.0, "lora_dropout": 0.0, "lora_targets": [],
    "quantize": "none", "processes": 1, "sharding": "none",
}  # fmt: skip
EVERYTHING = {
    "keep": "best", "accumulate": 2, "dropout": 0.2, "save_every": 2, "validate_every": 3, "checkpointing": True,
    "attention": "document",
}  # fmt: skip
HARVEST = {
    "source": "sample",
    "num_papers": 80,
    "categories": [],
    "since": "",
    "until": "",
    "max_results": 0,
    "seed": 1,
}


def prepare(name: str, **settings: object) -> tuple[Run, corpora.Corpus]:
    """A run with a corpus of made-up papers."""
    run = Run(name)
    run.begin("harvest", {})
    harvest(run, HARVEST)
    run.begin("corpus", {})
    chosen = corpus_settings(split=[0.8, 0.1, 0.1], vocabulary=400) | settings
    return run, corpora.build(run, chosen, None, context=256)


def train(run: Run, corpus: corpora.Corpus, model: str, **settings: object) -> engines.Engine:
    """Trains, or goes on training; ``reason`` says why it stopped."""
    chosen = SETTINGS | {"model": model} | settings
    engine = engines.start_engine(run, model, corpus, 1, chosen["quantize"])
    watch = monitor.Monitor(run, chosen)
    engines.finetune(engine, corpus, chosen, watch, Probe(corpus, chosen))
    engine.reason = watch.reason
    return engine


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the monitor die when a step is to be recorded."""
    record = monitor.Monitor.step

    def killed(self, **row):
        if row["step"] == step:
            raise KeyboardInterrupt
        return record(self, **row)

    monkeypatch.setattr(monitor.Monitor, "step", killed)


def history(run: Run) -> list[dict]:
    """What was recorded, times aside."""
    return [row | {"seconds": 0} for row in monitor.read(run / "history.csv")]


@pytest.fixture(params=KINDS)
def model(request, project, monkeypatch):
    """Names a tiny model of each engine."""
    monkeypatch.setattr(engines, "SCRATCH", TINY)
    monkeypatch.setattr(hub, "SCRATCH", TINY)
    monkeypatch.setattr(kernels, "compiled", lambda function: function)  # compiling takes seconds a model
    return request.param


@pytest.fixture
def prepared(model):
    return *prepare("r"), model


def test_the_loss_falls_and_everything_is_recorded(prepared):
    run, corpus, model = prepared
    engine = train(run, corpus, model, steps=40)
    rows = monitor.read(run / "history.csv")
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(math.log(len(corpus.tokenizer)), abs=0.3), "it knows nothing at first"
    assert rows[-1]["loss_smoothed"] < rows[0]["loss"] - 1
    assert [int(row["step"]) for row in rows if row["valid_loss"] is not None] == list(range(4, 41, 4))
    assert all(row["copy_rate"] is not None for row in rows[3::4]), "the probe looked for copies"
    assert len((run / "samples" / "step-000004.txt").read_text().splitlines()) >= 4
    assert engine.reason == "all 40 steps were done"


def test_resuming_is_exact_wherever_training_was_killed(prepared, monkeypatch):
    run, corpus, model = prepared
    whole = train(*prepare("whole"), model, **EVERYTHING)
    for step in (2, 5, 7):  # each time it resumes, and is killed again
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            killed_at(step, patch)
            train(run, corpus, model, **EVERYTHING)
    resumed = train(run, corpus, model, **EVERYTHING)
    assert history(Run("whole")) == history(run)
    ids = np.random.default_rng(1).integers(0, 400, (4, 33), np.int32)
    assert np.array_equal(*(engine.losses(ids, np.ones((4, 32), np.float32)) for engine in (whole, resumed)))


def test_a_training_killed_while_it_ends_is_ended(prepared, monkeypatch):
    run, corpus, model = prepared
    whole = train(*prepare("whole"), model, keep="best")
    replace = type(run.path).replace

    def killed(self, target):
        if self.name == "last" and target.name == ".last.deleted":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(run.path), "replace", killed)
        train(run, corpus, model, keep="best")
    ended = train(run, corpus, model, keep="best")
    assert ended.reason == "all 8 steps were done" and ended.step == 8 and not (run / "model" / "last").exists()
    assert ended.mean_loss(corpus.documents("valid")) == whole.mean_loss(corpus.documents("valid"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_floor": 5.9, "steps": 40}, "fell below the floor of 5.9"),
        ({"learning_rate": 1e30, "warmup_steps": 0}, "that step was not applied"),
        (
            {"learning_rate": 0.5, "steps": 60, "validate_every": 2, "schedule": "constant", "patience": 2},
            "the validation loss had not improved for 2 validations",
        ),
    ],
)  # fmt: skip
def test_it_stops_when_it_should_and_keeps_a_model(prepared, settings, said):
    run, corpus, model = prepared
    run.begin("finetune", {"model": model})
    engine = train(run, corpus, model, **settings)
    assert said in engine.reason and engine.step < settings.get("steps", 8)
    run.finish("finetune")
    loss = engines.load_engine(run).mean_loss(corpus.documents("valid"))
    assert math.isfinite(loss) or "not applied" in said  # nothing was validated, so the last weights are kept


def test_the_best_weights_are_kept_and_read_again(prepared):
    run, corpus, model = prepared
    run.begin("finetune", {"model": model})
    train(run, corpus, model, keep="best", learning_rate=1.0, steps=12, validate_every=1, schedule="constant")
    run.finish("finetune")
    rows = monitor.read(run / "history.csv")
    best = min(row["valid_loss"] for row in rows if row["valid_loss"] is not None)
    assert best < rows[-1]["valid_loss"]
    assert engines.load_engine(run).mean_loss(corpus.documents("valid")) == pytest.approx(best, abs=1e-6)
    assert not (run / "model" / "best").exists() and not (run / "model" / "last").exists()


def test_a_batch_in_parts_trains_as_a_whole_one(prepared):
    run, corpus, model = prepared
    whole = train(run, corpus, model, batch_size=4, steps=3)
    parts = train(prepare("parts")[0], corpus, model, batch_size=1, accumulate=4, steps=3)
    valid = corpus.documents("valid")
    assert whole.mean_loss(valid) == pytest.approx(parts.mean_loss(valid), abs=1e-5)


def test_documents_are_learned_as_they_are_measured_each_alone(prepared):
    run, corpus, model = prepared
    engine = train(run, corpus, model, steps=20)
    documents = corpus.documents("train")
    rows = PackedDataset(documents, 1, 64, 1, mask_documents=True).num_rows
    chosen = SETTINGS | {"model": model, "batch_size": rows, "block_size": 64}
    nats, tokens = engine.document_losses(documents)
    whole = PackedDataset(documents, rows, 64, 1, mask_documents=True)[1]
    assert whole.weights.sum() == tokens.sum()
    engine.prepare(corpus, chosen)
    assert engine.train_step(whole, 0.0)[0] == pytest.approx(nats.sum() / tokens.sum(), abs=1e-5)


def test_attention_is_by_document_where_weights_are_given_and_by_row_from_scratch(prepared):
    run, corpus, model = prepared
    losses = {}
    for attention in ("auto", "row", "document"):
        train(run, corpus, model, attention=attention, steps=2)
        losses[attention] = [row["loss"] for row in history(run)]
        run.clear("finetune")
    assert losses["auto"] == losses["row"] != losses["document"]
    engine = engines.start_engine(run, model, corpus, 1)
    for given in ("124M", "hf:gpt2", "models/mine"):
        assert engine.masks_documents({"model": given, "attention": "auto", "block_size": 32})
    assert not engine.masks_documents({"model": "hf:gpt2", "attention": "row", "block_size": 32})


def test_completions_alone_are_learned_but_where_prompts_are_asked_for(model):
    run, corpus = prepare("r", template="{primary_category} -> {title}")
    train(run, corpus, model, steps=2)
    tokens = [monitor.read(run / "history.csv")[-1]["tokens"]]
    run.clear("finetune")
    train(run, corpus, model, steps=2, train_on_prompt=True)
    tokens.append(monitor.read(run / "history.csv")[-1]["tokens"])
    assert 0 < tokens[0] < tokens[1]


def test_blocks_alone_train_where_asked(prepared):
    run, corpus, model = prepared
    documents = corpus.documents("valid")
    before = engines.start_engine(run, model, corpus, 1).mean_loss(documents)
    assert train(run, corpus, model, layers="transformer").mean_loss(documents) != pytest.approx(before, abs=1e-3)


def test_a_training_that_does_not_fit_is_refused_with_what_would(prepared, monkeypatch):
    run, corpus, model = prepared
    monkeypatch.setattr("titlesmith.models.memory.available_memory", lambda: 1_350_000_000)
    with pytest.raises(RequestError, match=r"needs about .* GiB of memory.*the largest batch_size that fits is \d+"):
        train(run, corpus, model, batch_size=200_000 if model == "scratch" else 400_000)


def test_a_checkpoint_that_cannot_be_written_is_reported_and_the_one_before_it_is_whole(prepared, monkeypatch):
    run, corpus, model = prepared
    engine = train(run, corpus, model)
    engine.save_checkpoint(path := run / "model" / "last")
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    engine.step = 9

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="the one before it is kept"):
        patch.setattr("titlesmith.train.gpt2.write_json", full)
        patch.setattr("torch.save", full)
        engine.save_checkpoint(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == files
    assert type(engine).load(path).step == 8
    shutil.rmtree(path)
