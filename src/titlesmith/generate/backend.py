"""Back ends: a model that samples texts. GPT-2 generates through CTranslate2, ``hf:`` models through transformers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.settings import GenerationSettings
from titlesmith.models import base, hub
from titlesmith.runs import Run
from titlesmith.train import Engine, load_engine

# Called with the index of a prompt and the next id of its completion; True ends the generation early
Listener = Callable[[int, int], bool]
CTRANSLATE2 = "model/ctranslate2"  # in a run's directory: the model of GPT-2 and scratch in CTranslate2's format


class StoppedError(Exception):
    """A listener ended the generation."""


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    ids: list[int]
    """The token ids after the prompt, without the end of text."""
    logprob: float
    """Mean log-probability of these ids and of the end of text, in nats per token, under the model itself
    (temperature 1, no token excluded)."""
    finished: bool
    """Whether the model ended the text; False if ``max_tokens`` did."""

    @classmethod
    def of(cls, ids: list[int], logprob: float, end: int) -> "Completion":
        """The completion in ids that the end of text, ``end``, may follow."""
        finished = end in ids
        return cls(ids[: ids.index(end)] if finished else ids, float(logprob), finished)


class Backend(Protocol):
    """A model that generates."""

    tokenizer: Tokenizer
    context: int
    """Maximum length of prompt and text in tokens."""
    device: str
    """The device and the number format, for people."""

    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """Samples ``settings.count`` completions of each prompt, or returns the best ones of a beam search, in order.

        ``listener`` is called with each new id, where the model generates them one by one.

        Equal seeds, prompts and settings give equal completions. `TextGenerator` applies ``unique`` and ``best_of``. If
        a prompt and ``max_tokens`` together exceed the context, it is a RequestError.
        """

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities of the token after each prompt, float32, shape (prompts, vocabulary)."""


def open_backend(run: Run) -> Backend:
    """The fine-tuned model of a run (RunError if there is none, or its files are damaged)."""
    run.require("finetune")
    if hub.is_hub(run.record("finetune").get("settings", {}).get("model", "")):
        return backend_for(load_engine(run))
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    run.verify("finetune")
    hyperparameters = json.loads((run / "model" / models.HYPERPARAMETERS).read_text("utf-8"))
    return CTranslate2Backend(run / CTRANSLATE2, hyperparameters, Tokenizer.load(run / "model"))


def open_base() -> Backend:
    """The model ``base`` of the package, unchanged."""
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    weights, tokenizer = base.read()
    return CTranslate2Backend.of_weights(weights, models.BASE, tokenizer)


def save_backend(engine: Engine, run: Run) -> None:
    """Writes what `open_backend` reads, if that is not the checkpoint itself."""
    if hasattr(engine, "hyperparameters"):  # a GPT-2; importing its class takes seconds
        from titlesmith.generate.ctranslate2 import save_ctranslate2

        save_ctranslate2(engine, run / CTRANSLATE2)


def backend_for(engine: Engine) -> Backend:
    """The current weights of an engine."""
    if hasattr(engine, "hyperparameters"):
        from titlesmith.generate.ctranslate2 import CTranslate2Backend

        return CTranslate2Backend.of_weights(engine.weights(), engine.hyperparameters, engine.tokenizer)
    from titlesmith.generate.huggingface import TransformersBackend

    return TransformersBackend(engine.model, engine.tokenizer)


def open_adapter(model: str, adapter: Path, quantize: str = "none") -> Backend:
    """A model with an adapter that was trained elsewhere.

    ``adapter`` is a folder in peft's format; ``model`` is ``hf:NAME-OR-PATH`` of its model, by default the one that the
    adapter names; ``quantize`` is ``none``, ``8bit`` or ``4bit``. If a file is missing, the model is not installed, or
    the adapter does not fit it, it is a RequestError.
    """
    hub.check_installed()
    hub.check_adapter(adapter)
    from titlesmith.generate.huggingface import TransformersBackend
    from titlesmith.models.weights import read, with_adapter

    path = models.folder(model or hub.base_of(adapter))
    return TransformersBackend(with_adapter(read(path, quantize), adapter), Tokenizer.load(path))
