"""Back ends: a model that samples texts. GPT-2 generates through CTranslate2, ``hf:`` models through transformers."""

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

CTRANSLATE2 = "model/ctranslate2"  # in a run's directory: the model of GPT-2 and scratch in CTranslate2's format


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt.

    Attributes
    ----------
    ids
        The token ids after the prompt, without the end of text.
    logprob
        Mean log-probability of these ids and of the end of text, in nats per token, under the model itself
        (temperature 1, no token excluded).
    finished
        Whether the model ended the text; False where ``max_tokens`` did.
    """

    ids: list[int]
    logprob: float
    finished: bool


class Backend(Protocol):
    """A model that generates.

    Attributes
    ----------
    tokenizer
        The model's vocabulary.
    context
        Maximum length of prompt and text in tokens.
    device
        What it computes on, in words.
    """

    tokenizer: Tokenizer
    context: int
    device: str

    def generate(self, prompts: list[list[int]], settings: GenerationSettings) -> list[list[Completion]]:
        """Samples ``settings.count`` completions of each prompt, or searches for them with beams.

        Seed, prompts and settings together decide what is sampled. Completions of a beam search come best first.

        Parameters
        ----------
        prompts
            Token ids, of any lengths, at least one each.
        settings
            ``unique`` and ``best_of`` are left to `titlesmith.generate.generator.TextGenerator`.

        Raises
        ------
        RequestError
            A prompt and ``max_tokens`` together exceed the context.
        """

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities of the token after each prompt, float32, shape (prompts, vocabulary).

        Raises
        ------
        RequestError
            A prompt exceeds the context.
        """


def open_backend(run: Run) -> Backend:
    """The fine-tuned model of a run.

    Raises
    ------
    RunError
        The run has no model yet, or its files are damaged.
    """
    run.require("finetune")
    if hub.is_hub(run.record("finetune").get("settings", {}).get("model", "")):
        return backend_for(load_engine(run))
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    run.verify("finetune")
    return CTranslate2Backend.open(run / "model", run / CTRANSLATE2)


def open_base() -> Backend:
    """The model ``base`` of the package, unchanged."""
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    weights, tokenizer = base.read()
    return CTranslate2Backend.of_weights(weights, models.BASE, tokenizer)


def save_backend(engine: Engine, run: Run) -> None:
    """Writes what `open_backend` reads of an engine's weights, where that is not the checkpoint itself."""
    if hasattr(engine, "hyperparameters"):  # a GPT-2; importing its class takes seconds
        from titlesmith.generate.ctranslate2 import save_ctranslate2

        save_ctranslate2(engine, run / CTRANSLATE2)


def open_adapter(model: str, adapter: Path, quantize: str = "none") -> Backend:
    """A model with an adapter that was trained elsewhere, as peft saves it.

    Parameters
    ----------
    model
        ``hf:NAME-OR-PATH`` of the adapter's model; empty for the model that the adapter names itself.
    adapter
        Its folder, with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``).
    quantize
        How the model's weights are stored in memory: ``none``, ``8bit`` or ``4bit``.

    Raises
    ------
    RequestError
        A file is missing, the model is not installed, or the adapter does not fit it.
    """
    hub.check_installed()
    hub.check_adapter(adapter)
    from titlesmith.generate.huggingface import TransformersBackend
    from titlesmith.models.weights import read, with_adapter

    path = models.folder(model or hub.base_of(adapter))
    return TransformersBackend(with_adapter(read(path, quantize), adapter), Tokenizer.load(path))


def backend_for(engine: Engine) -> Backend:
    """The model of an engine as it is now, in memory."""
    if hasattr(engine, "hyperparameters"):
        from titlesmith.generate.ctranslate2 import CTranslate2Backend

        return CTranslate2Backend.of_engine(engine)
    from titlesmith.generate.huggingface import TransformersBackend

    return TransformersBackend(engine.model, engine.tokenizer)
