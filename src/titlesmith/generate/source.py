"""Sources: the models that the commands and the web page generate with: a run's, the package's, or an adapter."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import CODEC, Tokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import Backend
from titlesmith.generate.nearest import Nearest
from titlesmith.models import BASE, HYPERPARAMETERS, base, hub, limits
from titlesmith.runs import Run, open_run, swapping
from titlesmith.train import Engine, load_engine

CTRANSLATE2 = "model/ctranslate2"  # in a run's directory: the model of GPT-2 and scratch in CTranslate2's format
ADAPTER_TEMPLATE = "chatgentitle"  # a prompt of alpaca-lora
NO_RUN = {"prefixes": [""], "held_out": 0}


class Source(NamedTuple):
    """A model to generate with, and the run that trained it."""

    name: str  # in messages
    format: DocumentFormat
    open: Callable[[], Backend]
    settings: dict  # parameters of notebook 04
    nearest: Nearest | None = None  # default: the training texts of ``format``, a corpus
    run: Run | None = None


def open_source(name: str) -> Source:
    """The model of a run, or for ``base``, unless a run has that name, that of the package (RequestError, RunError)."""
    if name == "base" and not Run(name).info:
        format, settings = DocumentFormat(template("title"), Tokenizer.load(base.FOLDER)), NO_RUN | {"temperature": 0.8}
        return Source("the base model", format, lambda: _open_gpt2(*base.read()), settings, Nearest(None))
    run = open_run(name)
    run.require("finetune")
    settings = run.record("generate").get("settings", {})
    return Source(f"run {run.name}", Corpus(run), partial(open_backend, run), settings, run=run)


def open_adapter_source(
    adapter: Path, model: str = "", quantize: str = "none", named: str | None = None, run: Run | None = None
) -> Source:
    """A model with an adapter of peft's format that was trained elsewhere (RequestError).

    ``model`` is ``hf:NAME-OR-PATH``, by default the one that the adapter names; ``quantize`` is ``none 8bit 4bit``;
    ``named`` is the template's name. A run lends its template, settings and training texts.
    """
    if model and not hub.is_hub(model):
        raise RequestError(f"--base {shorten(model)}: an adapter needs a model of the transformers library, hf:NAME")
    if run and named:
        raise RequestError(f"--template {shorten(named)}: run {run.name} has its own template; omit one of the two")
    limits.check_quantize(quantize)
    model, chosen = hub.adapter_base(adapter, model), template(named or ADAPTER_TEMPLATE)
    path = hub.folder(model)
    tokenizer, has_codec = Tokenizer.load(path), (adapter / CODEC).exists()
    if has_codec:  # the adapter was trained with this end of text
        tokenizer = tokenizer.with_end(Tokenizer.load(adapter).eos_id)
    corpus = Corpus(run) if run else DocumentFormat(chosen, tokenizer)
    if not run and not has_codec and tokenizer.bos_ids:
        corpus.layout.before = []  # other programs put no end of text before the first document
    if corpus.tokenizer.vocabulary != tokenizer.vocabulary:
        raise RequestError(f"--adapter {adapter}: run {run.name} was not tokenized for {model}: omit the run")

    def open() -> Backend:
        from titlesmith.generate.huggingface import TransformersBackend
        from titlesmith.models.weights import read, with_adapter

        return TransformersBackend(with_adapter(read(path, quantize), adapter), corpus.tokenizer)

    if run:
        return Source(f"run {run.name}", corpus, open, run.record("generate").get("settings", {}))
    return Source(f"the adapter in {adapter}", corpus, open, NO_RUN, Nearest(None))


def open_backend(run: Run) -> Backend:
    """The fine-tuned model of a run (RunError if there is none, or its files are damaged)."""
    run.require("finetune")
    if hub.is_hub(run.record("finetune")["settings"]["model"]):
        return backend_for(load_engine(run))
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    run.verify("finetune")
    hyperparameters = json.loads((run / "model" / HYPERPARAMETERS).read_text("utf-8"))
    return CTranslate2Backend(run / CTRANSLATE2, hyperparameters, Tokenizer.load(run / "model"))


def _open_gpt2(weights: dict, tokenizer: Tokenizer, hyperparameters: dict = BASE) -> Backend:
    from titlesmith.generate.ctranslate2 import CTranslate2Backend

    return CTranslate2Backend.of_weights(weights, hyperparameters, tokenizer)


def save_backend(engine: Engine, run: Run) -> None:
    """Writes what `open_backend` reads, if that is not the checkpoint itself."""
    if hasattr(engine, "hyperparameters"):  # a GPT-2; importing its class takes seconds
        from titlesmith.generate.ctranslate2 import convert_gpt2

        with swapping(run / CTRANSLATE2) as new:
            convert_gpt2(engine.weights(), engine.hyperparameters, engine.tokenizer, new)


def backend_for(engine: Engine) -> Backend:
    """The current weights of an engine."""
    if hasattr(engine, "hyperparameters"):
        return _open_gpt2(engine.weights(), engine.tokenizer, engine.hyperparameters)
    from titlesmith.generate.huggingface import TransformersBackend

    return TransformersBackend(engine.model, engine.tokenizer)
