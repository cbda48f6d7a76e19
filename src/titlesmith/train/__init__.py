"""Engines: the libraries that a model is trained with; the model's name decides which."""

from typing import TYPE_CHECKING

from titlesmith.errors import RequestError
from titlesmith.models import BASE, SCRATCH, base, folder, hub
from titlesmith.runs import Run, swapped
from titlesmith.train.loop import Engine, finetune

if TYPE_CHECKING:
    from titlesmith.corpus import Corpus


def start_engine(run: Run, model: str, corpus: "Corpus", seed: int, quantize: str = "none") -> Engine:
    """The model to fine-tune, from the checkpoint of an interrupted training of this run or as it is published.

    RequestError if the model is not here, or its vocabulary is not the corpus's.
    """
    kind, mark = _kind(model)
    for path in (swapped(run / "model" / "last"), run / "model"):
        if (path / mark).exists():
            return kind.load(path, tokenizer=corpus.tokenizer)
    if model in SCRATCH:
        return kind(corpus.tokenizer, SCRATCH[model] | {"n_vocab": len(corpus.tokenizer)}, seed)
    if model == "hf:scratch":
        return kind.scratch(corpus.tokenizer, hub.SCRATCH | {"n_vocab": len(corpus.tokenizer)}, seed)
    if model == "base":
        weights, tokenizer = base.read()
        engine = kind.of_weights(weights, BASE, tokenizer)
    else:
        engine = kind.open(model, quantize) if hub.is_hub(model) else kind.load(folder(model), resume=False)
    if engine.tokenizer.vocabulary != corpus.tokenizer.vocabulary:
        raise RequestError(f"model: the corpus was not tokenized for {model}: run notebook 02 with model={model!r}")
    engine.tokenizer = corpus.tokenizer  # whose end of text may be another
    return engine


def load_engine(run: Run) -> Engine:
    """The fine-tuned model of a run."""
    run.require("finetune")
    run.verify("finetune")
    kind, _ = _kind(run.record("finetune").get("settings", {}).get("model", ""))
    return kind.load(run / "model", resume=False)


def _kind(model: str) -> tuple[type[Engine], str]:
    """The engine of a model, and a file that its checkpoints have. Both libraries take seconds to import."""
    if hub.is_hub(model):
        hub.check_installed()
        from titlesmith.models.weights import STATE
        from titlesmith.train.huggingface import HuggingFaceEngine

        return HuggingFaceEngine, STATE
    from titlesmith.train.gpt2 import GPT2Engine

    return GPT2Engine, "checkpoint"
