"""The TensorFlow engine: training, resuming, sampling, and both directions of exchange with stock gpt-2-simple."""

import resource
import shutil
from types import SimpleNamespace

import gpt_2_simple
import numpy as np
import pytest
import tensorflow as tf

from conftest import corpus_settings
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith import train as engines
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError, RunError
from titlesmith.runs import Run
from titlesmith.train import kernels, monitor
from titlesmith.train import sampled_softmax as vocabulary
from titlesmith.train.gpt2 import GPT2Engine
from titlesmith.train.sampled_softmax import trained_ids, used_ids
from train import helpers
from train.helpers import EVERYTHING, history, kill_at, prepare, train

TINY = helpers.TINY | {"n_layer": 1}  # TensorFlow builds the graph of each layer for a second


@pytest.fixture(autouse=True)
def uncompiled(request, monkeypatch):
    """Without XLA, whose compilation takes seconds a model, unless a test is marked ``compiled``."""
    if "compiled" not in request.keywords:
        monkeypatch.setattr(kernels, "compiled", lambda function: function)


@pytest.fixture
def prepared(project, monkeypatch):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": TINY})
    return prepare("r")


def weights(engine: GPT2Engine) -> list[np.ndarray]:
    return engine._session.run(engine._variables)


def test_a_loss_that_is_not_finite_stops_and_the_model_before_it_is_kept(prepared):
    run, corpus = prepared
    engine = train(run, corpus, learning_rate=1e30, warmup_steps=0)
    assert "that step was not applied" in engine.reason
    kept = GPT2Engine.load(run / "model")
    assert kept.step == engine.step == monitor.read(run / "history.csv")[-1]["step"] - 1
    assert all(np.isfinite(w).all() for w in weights(kept))


FANCY = EVERYTHING | {"vocabulary": "corpus", "precision": "bfloat16", "attention": "auto"}


@pytest.mark.compiled
def test_resuming_a_compiled_training_with_all_options_is_exact(project, monkeypatch):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": TINY})
    monkeypatch.setattr(vocabulary, "SAMPLED", 8)
    full = train(*prepare("full"), **FANCY, steps=4)
    run, corpus = prepare("resumed")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at(3, patch)
        train(run, corpus, **FANCY, steps=4)
    resumed = train(run, corpus, **FANCY, steps=4)
    for a, b in zip(weights(full), weights(resumed), strict=True):
        assert np.array_equal(a, b)
    assert history(Run("full")) == history(run)


def test_epochs_in_place_of_steps(prepared):
    run, corpus = prepared
    train(run, corpus, epochs=2.0)
    rows = monitor.read(run / "history.csv")
    assert rows[-1]["epoch"] == pytest.approx(2, abs=0.2)


def test_ids_outside_the_corpus_move_together(prepared, project):
    run, corpus = prepared
    full = train(run, corpus, steps=1)
    full.save_weights(project / "models" / "base")
    used = used_ids(corpus.documents("train").ids, corpus.tokenizer)
    assert 256 < len(used) < len(corpus.tokenizer)
    other, corpus = prepare("other")
    base = GPT2Engine.load(project / "models" / "base", resume=False)
    engine = train(other, corpus, model="models/base", vocabulary="corpus", steps=30)
    before, after = (e._session.run(e._variables[1]) for e in (base, engine))
    unused = np.setdiff1d(np.arange(len(corpus.tokenizer)), used)
    assert [v.op.name for v in engine._variables][1] == "model/wte"
    moved = after - before
    assert np.ptp(moved[unused], axis=0).max() < 1e-6 < np.abs(moved[unused]).min(axis=0).max()
    assert np.ptp(moved[used], axis=0).min() > 1e-3
    rows = monitor.read(other / "history.csv")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5 and rows[-1]["valid_loss"] < full.mean_loss(
        corpus.documents("valid")
    )
    loaded = GPT2Engine.load(other / "model")
    assert np.array_equal(loaded._session.run(loaded._variables[1]), after)


def test_accumulated_calls_sample_the_same_ids(prepared, monkeypatch):
    monkeypatch.setattr(vocabulary, "SAMPLED", 8)
    run, corpus = prepared
    losses = []
    for settings in ({"batch_size": 4, "accumulate": 1}, {"batch_size": 2, "accumulate": 2}):
        run.clear("finetune")
        train(run, corpus, vocabulary="corpus", **settings)
        losses.append([row["loss"] for row in monitor.read(run / "history.csv")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "model", "share", "trains"),
    [
        ("full", "124M", 0.1, False), ("auto", "124M", 0.1, True), ("auto", "124M", 0.7, False),
        ("auto", "hf:gpt2", 0.1, True), ("corpus", "hf:gpt2", 0.1, True),
        ("auto", "scratch", 0.1, False),
        ("auto", "hf:scratch", 0.1, False), ("corpus", "scratch", 0.7, True), ("corpus", "124M", 1.0, False),
    ],
)  # fmt: skip
def test_which_embeddings_train(prepared, monkeypatch, setting, model, share, trains):
    _, corpus = prepared
    used = np.arange(int(share * len(corpus.tokenizer)))
    monkeypatch.setattr(vocabulary, "used_ids", lambda *_: used)
    assert trained_ids(corpus, {"vocabulary": setting, "model": model}) is (used if trains else None)


def test_a_full_disk_is_reported_and_the_last_checkpoint_is_complete(prepared, monkeypatch):
    run, corpus = prepared
    save, (soft, hard) = GPT2Engine.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_to_full_disk(self, path):
        if self.step == 6:  # no file may exceed 1,000 bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            save(self, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with monkeypatch.context() as patch, pytest.raises(RunError) as error:
        patch.setattr(GPT2Engine, "save_checkpoint", save_to_full_disk)
        train(run, corpus)
    assert "the checkpoint of step 6 was not written, the one before it is kept" in str(error.value)
    assert "Free some space" in str(error.value)
    assert GPT2Engine.load(run / "model" / "last", tokenizer=corpus.tokenizer).step == 3
    assert train(run, corpus).step == 8, "with space again it resumes"


def test_too_little_space_is_reported_before_training(prepared, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match=r"the disk has 0\.0 GB left; checkpoints of this training take up to"):
        train(*prepared)


def test_only_the_newest_checkpoint_stays(prepared):
    run, corpus = prepared
    train(run, corpus)
    names = {p.name for p in (run / "model").iterdir()}
    assert names == {
        "checkpoint", "encoder.json", "hparams.json", "vocab.bpe", "model-8.index", "model-8.data-00000-of-00001",
    }  # fmt: skip


def test_the_loss_of_a_template_with_a_prompt_counts_completions_only(project, monkeypatch):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": TINY})
    run, corpus = prepare("r", template="year-title")
    engine = train(run, corpus)
    documents = corpus.documents("test")
    nats = tokens = 0.0
    for document in documents:
        ids = np.concatenate([[corpus.tokenizer.eos_id], document])
        split = document.tolist().index(corpus.tokenizer.newline_id) + 1
        nats += engine.losses(ids[None], (np.arange(len(document)) >= split)[None].astype(float))[0]
        tokens += len(document) - split
    assert engine.mean_loss(documents) == pytest.approx(nats / tokens, rel=1e-5)


# Exchange with stock gpt-2-simple, whose samplers need a context of 1,024 tokens

STOCK = {"n_ctx": 1024, "n_embd": 16, "n_head": 2, "n_layer": 1}


@pytest.fixture
def stock_session():
    tf.compat.v1.reset_default_graph()
    session = gpt_2_simple.start_tf_sess()
    yield session
    session.close()
    tf.compat.v1.reset_default_graph()


def test_stock_gpt_2_simple_loads_and_generates_with_what_was_trained_here(project, monkeypatch, stock_session):
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": STOCK})
    run, corpus = prepare("r")
    engine = train(run, corpus)
    gpt_2_simple.load_gpt2(stock_session, run_name="model", checkpoint_dir=str(run.path))
    (loaded,) = [v for v in tf.compat.v1.global_variables() if v.op.name == "model/wte"]
    (trained,) = [v for v in engine._variables if v.op.name == "model/wte"]
    assert np.array_equal(stock_session.run(loaded), engine._session.run(trained))
    texts = gpt_2_simple.generate(
        stock_session, run_name="model", checkpoint_dir=str(run.path), length=12, prefix="Neural", return_as_list=True
    )
    assert texts[0].startswith("Neural") and len(texts[0]) > len("Neural")


def test_what_stock_gpt_2_simple_fine_tuned_loads_and_trains_on_here(project, monkeypatch, stock_session):
    monkeypatch.chdir(project)
    monkeypatch.setattr(engines, "SCRATCH", {"scratch": STOCK})
    run, corpus = prepare("r")
    base = engines.start_engine(run, "scratch", corpus, seed=1)
    base.save_weights(project / "models" / "tiny")
    (project / "titles.txt").write_text("\n".join(corpus.table("train")["completion"]) * 20)
    gpt_2_simple.finetune(
        stock_session,
        "titles.txt",
        steps=2,
        model_name="tiny",
        accumulate_gradients=1,
        sample_every=100,
        save_every=100,
    )
    (trained,) = [v for v in tf.compat.v1.global_variables() if v.op.name == "model/wte"]
    trained = stock_session.run(trained)
    assert models.folder("checkpoint/run1") == project / "checkpoint" / "run1"
    other, corpus = prepare("other")
    engine = engines.start_engine(other, "checkpoint/run1", corpus, seed=1)
    assert engine.step == 0, "a new training begins"
    (loaded,) = [v for v in engine._variables if v.op.name == "model/wte"]
    assert np.array_equal(engine._session.run(loaded), trained)
    assert not np.array_equal(trained, weights(base)[1])
    finetuned = train(other, corpus, model="checkpoint/run1")
    assert finetuned.step == 8


def test_a_checkpoint_of_another_shape_is_refused(prepared):
    run, corpus = prepared
    engines.start_engine(run, "scratch", corpus, seed=1).save_weights(run / "model")
    path = run / "model" / "hparams.json"
    path.write_text(path.read_text().replace('"n_embd": 32', '"n_embd": 64'))
    with pytest.raises(RequestError, match=r"model/\w+ is \[.*; hparams\.json says \["):
        GPT2Engine.load(run / "model")


def test_a_missing_checkpoint_is_named(tmp_path):
    tokenizer = Tokenizer.learn(["a b"], 300)
    GPT2Engine(tokenizer, TINY | {"n_vocab": len(tokenizer)}).save_weights(tmp_path)
    (tmp_path / "model-0.index").unlink()
    with pytest.raises(RequestError, match="has no checkpoint"):
        GPT2Engine.load(tmp_path)


@pytest.fixture
def openai(prepared, project):
    """A tiny model in OpenAI's layout, as ``models/124M``."""
    run, corpus = prepared
    engine, folder = engines.start_engine(run, "scratch", corpus, seed=1), project / "models" / "124M"
    engine.save_weights(folder)
    for path in (folder / "checkpoint", *folder.glob("model-*")):
        path.unlink()
    own = [v for v in engine._variables if v.op.name in dict(VARIABLES)]
    with engine._session.graph.as_default():
        saver = tf.compat.v1.train.Saver(own, save_relative_paths=True)
    saver.save(engine._session, str(folder / "model.ckpt"))
    assert {"model.ckpt.index", "model.ckpt.meta", "checkpoint"} <= {p.name for p in folder.iterdir()}
    return folder


VARIABLES = [("model/wpe", [64, 32]), ("model/wte", [400, 32])] + [
    (f"model/{name}", None)
    for name in ["ln_f/g", "ln_f/b"]
    + [
        f"h{i}/{part}"
        for i in range(1)
        for part in ["ln_1/g", "ln_1/b", "ln_2/g", "ln_2/b"]
        + [f"{layer}/{x}" for layer in ["attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj"] for x in "wb"]
    ]
]


def test_openais_layout_is_read_and_its_vocabulary_makes_the_corpus(openai, project):
    assert models.folder("124M") == openai and models.context("124M") == 64
    run, corpus = prepare("tuned", "124M")
    assert corpus.tokenizer.vocabulary == Tokenizer.load(openai).vocabulary
    engine = engines.start_engine(run, "124M", corpus, seed=1)
    assert {v.op.name for v in engine._variables} == dict(VARIABLES).keys()
    for variable in engine._variables:
        stored = tf.train.load_variable(str(openai / "model.ckpt"), variable.op.name)
        assert np.array_equal(engine._session.run(variable), stored)
    assert train(run, corpus, model="124M").step == 8


def test_a_model_that_lacks_a_file_is_refused(openai):
    (openai / "vocab.bpe").unlink()
    with pytest.raises(RequestError, match=r"124M lacks vocab\.bpe"):
        models.folder("124M")


def test_a_corpus_of_another_vocabulary_is_refused(openai):
    other, wider = prepare("other", vocabulary=500)
    with pytest.raises(RequestError, match="not tokenized for 124M"):
        engines.start_engine(other, "124M", wider, seed=1)


def test_documents_that_do_not_fit_are_dropped_and_counted(project):
    run, corpus = prepare("r", template="title-to-abstract")
    longest = max(n["longest"] for n in corpus.info["splits"].values())
    run.begin("corpus", {"again": 1})
    chosen = corpus_settings(split=[0.8, 0.1, 0.1], vocabulary=400, template="title-to-abstract")
    short = corpora.build(run, chosen, None, context=longest - 5)
    assert short.info["dropped"][f"longer than the model's context of {longest - 5} tokens"]["papers"] > 0
    for name in ("train", "valid", "test"):
        documents = short.documents(name)
        assert max(map(len, documents)) <= longest - 5
        assert len(documents) == short.table(name).height
