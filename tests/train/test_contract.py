"""What every engine does, tried on each of them: one suite, so that notebooks need not know which one they have."""

import math
import signal

import numpy as np
import pytest

from titlesmith import train as engines
from titlesmith.errors import InterruptError, RequestError, RunError
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.train import kernels, monitor
from titlesmith.train.packing import PackedDataset
from train.helpers import EVERYTHING, SETTINGS, TINY, history, kill_at, prepare, train


@pytest.fixture(params=["scratch", "hf:scratch"])
def model(request, project, monkeypatch):
    """Names a tiny model of each engine."""
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": TINY})
    monkeypatch.setattr(hub, "SCRATCH", TINY)
    monkeypatch.setattr(kernels, "compiled", lambda function: function)  # compiling takes seconds a model
    return request.param


@pytest.fixture
def prepared(model):
    return *prepare("r"), model


def test_the_loss_falls_and_everything_is_recorded(prepared):
    run, corpus, model = prepared
    engine, valid = train(run, corpus, model, steps=40, validate_documents=5), corpus.documents("valid")
    rows = monitor.read(run / "history.csv")
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[0]["loss"] == pytest.approx(math.log(len(corpus.tokenizer)), abs=0.3), "it knows nothing at first"
    assert rows[-1]["loss_smoothed"] < rows[0]["loss"] - 1
    assert [int(row["step"]) for row in rows if row["valid_loss"] is not None] == list(range(4, 41, 4))
    assert all(row["copy_rate"] is not None for row in rows[3::4]), "the probe looked for copies"
    assert len((run / "samples" / "step-000004.txt").read_text().splitlines()) >= 4
    assert engine.reason == "all 40 steps were done"
    # A validation measures as many documents as the setting says
    some = valid.subset(np.linspace(0, len(valid) - 1, 5).round().astype(int))
    assert len(valid) > 5 and rows[-1]["valid_loss"] == pytest.approx(engine.mean_loss(some), abs=1e-6)
    assert engine.mean_loss(some) != pytest.approx(engine.mean_loss(valid), abs=1e-3)
    # The training loss of masked documents is their measured loss
    documents = corpus.documents("train")
    rows = PackedDataset(documents, 1, 64, 1, mask_documents=True).num_rows
    nats, tokens = engine.document_losses(documents)
    batch = PackedDataset(documents, rows, 64, 1, mask_documents=True)[1]
    assert batch.weights.sum() == tokens.sum()
    engine.prepare(corpus, SETTINGS | {"model": model, "batch_size": rows, "block_size": 64})
    assert engine.train_step(batch, 0.0)[0] == pytest.approx(nats.sum() / tokens.sum(), abs=1e-5)


def interrupt_in(function: str, step: int, model: str, monkeypatch) -> None:
    """Sends SIGINT to this process in a step of the training, before a method of the monitor or engine is called."""
    owner = monitor.Monitor if function == "stop_reason" else engines._kind(model)[0]
    original = getattr(owner, function)

    def interrupted(self, *arguments):
        number = arguments[0]["step"] if function == "stop_reason" else self.step
        if number == step and not interrupted.sent:
            interrupted.sent = True
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    interrupted.sent = False
    monkeypatch.setattr(owner, function, interrupted)


def test_resuming_is_exact_wherever_training_was_killed_or_interrupted(prepared, monkeypatch):
    run, corpus, model = prepared
    full, handler = train(*prepare("full"), model, **EVERYTHING), signal.getsignal(signal.SIGINT)
    # An interrupt saves a checkpoint after the step: of an update, of a validation, and of the last validation
    for function, step in (("stop_reason", 1), ("kill", 2), ("mean_loss", 3), ("kill", 5), ("mean_loss", 8)):
        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt if function == "kill" else InterruptError) as stopped,
        ):
            kill_at(step, patch) if function == "kill" else interrupt_in(function, step, model, patch)
            train(run, corpus, model, **EVERYTHING)
        if function != "kill":
            assert str(stopped.value) == f"stopped at step {step} of 8; run the cell again to resume"
            assert run.record("finetune")["stopped"] == f"stopped at step {step} of 8"
            assert len(history(run)) == step and engines.start_engine(run, model, corpus, 1).step == step
            assert signal.getsignal(signal.SIGINT) is handler
    resumed = train(run, corpus, model, **EVERYTHING)
    assert history(Run("full")) == history(run)
    ids = np.random.default_rng(1).integers(0, 400, (4, 33), np.int32)
    assert np.array_equal(*(engine.losses(ids, np.ones((4, 32), np.float32)) for engine in (full, resumed)))


def test_a_training_that_is_ended_early_is_kept(prepared, monkeypatch):
    run, corpus, model = prepared
    with monkeypatch.context() as patch, pytest.raises(InterruptError):
        interrupt_in("stop_reason", 5, model, patch)
        train(run, corpus, model)
    run.update_stage("finetune", ended=True)
    engine = train(run, corpus, model)
    assert engine.reason == "it was ended at step 5 of 8" and engine.step == 5
    assert len(history(run)) == 5 and not (run / "model" / "last").exists()
    assert train(run, corpus, model).reason == engine.reason, "it stays ended"


def test_the_best_weights_are_kept_also_if_the_training_is_killed_while_it_ends(prepared, monkeypatch):
    run, corpus, model = prepared
    settings = {"keep": "best", "learning_rate": 1.0, "steps": 12, "validate_every": 1, "schedule": "constant"}
    replace = type(run.path).replace

    def killed(self, target):
        if self.name == "last" and target.name == ".last.deleted":
            raise KeyboardInterrupt
        return replace(self, target)

    run.begin("finetune", {"model": model})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(run.path), "replace", killed)
        train(run, corpus, model, **settings)
    ended = train(run, corpus, model, **settings)
    assert ended.reason == "all 12 steps were done" and ended.step == 12
    run.finish("finetune")
    rows = monitor.read(run / "history.csv")
    best = min(row["valid_loss"] for row in rows if row["valid_loss"] is not None)
    assert best < rows[-1]["valid_loss"]
    assert engines.load_engine(run).mean_loss(corpus.documents("valid")) == pytest.approx(best, abs=1e-6)
    assert not (run / "model" / "best").exists() and not (run / "model" / "last").exists()


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


def test_a_batch_in_parts_trains_like_one_batch(prepared):
    run, corpus, model = prepared
    full = train(run, corpus, model, batch_size=4, steps=3)
    parts = train(prepare("parts")[0], corpus, model, batch_size=1, accumulate=4, steps=3)
    valid = corpus.documents("valid")
    assert full.mean_loss(valid) == pytest.approx(parts.mean_loss(valid), abs=1e-5)


def test_attention_is_by_document_for_pretrained_models_and_by_row_from_scratch(prepared):
    run, corpus, model = prepared
    losses = {}
    for attention in ("row", "document"):
        engine = train(run, corpus, model, attention=attention, steps=2)
        assert engine.choices["attention"] == f"the {attention} of a token"
        losses[attention] = [row["loss"] for row in history(run)]
        run.clear("finetune")
    assert losses["row"] != losses["document"]
    engine = engines.start_engine(run, model, corpus, 1)
    assert not engine.masks_documents({"model": model, "attention": "auto", "block_size": 32})
    for given in ("124M", "hf:gpt2", "models/mine"):
        assert engine.masks_documents({"model": given, "attention": "auto", "block_size": 32})
    assert not engine.masks_documents({"model": "hf:gpt2", "attention": "row", "block_size": 32})


def test_only_completions_are_learned_unless_train_on_prompt(model):
    run, corpus = prepare("r", template="{primary_category} -> {title}")
    train(run, corpus, model, steps=2)
    tokens = [monitor.read(run / "history.csv")[-1]["tokens"]]
    run.clear("finetune")
    train(run, corpus, model, steps=2, train_on_prompt=True)
    tokens.append(monitor.read(run / "history.csv")[-1]["tokens"])
    assert 0 < tokens[0] < tokens[1]


def test_layers_transformer_trains(prepared):
    run, corpus, model = prepared
    documents = corpus.documents("valid")
    before = engines.start_engine(run, model, corpus, 1).mean_loss(documents)
    assert train(run, corpus, model, layers="transformer").mean_loss(documents) != pytest.approx(before, abs=1e-3)


def test_a_training_that_does_not_fit_is_refused_with_what_would(prepared, monkeypatch):
    run, corpus, model = prepared
    monkeypatch.setattr("titlesmith.models.memory.available_memory", lambda: 1_350_000_000)
    with pytest.raises(RequestError, match=r"needs about .* GiB of memory.*the largest batch_size that fits is \d+"):
        train(run, corpus, model, batch_size=200_000 if model == "scratch" else 400_000)


def test_a_checkpoint_that_cannot_be_written_is_reported_and_the_one_before_it_is_complete(prepared, monkeypatch):
    run, corpus, model = prepared
    engine = train(run, corpus, model, steps=2)
    engine.save_checkpoint(path := run / "model" / "last")
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    assert not files.keys() & {"tokenizer.json", "encoder.json"}, "the run's tokenizer is in its corpus and its model"
    engine.step = 9

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="the one before it is kept"):
        patch.setattr("titlesmith.train.gpt2.write_json", full)
        patch.setattr("torch.save", full)
        engine.save_checkpoint(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == files
    assert type(engine).load(path, tokenizer=corpus.tokenizer).step == 2
