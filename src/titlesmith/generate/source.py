"""Sources: what the commands and the web page generate with, a run's model, the package's, or an adapter."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import CODEC, Tokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import Backend, open_adapter, open_backend, open_base
from titlesmith.generate.nearest import Nearest
from titlesmith.models import base as base_model
from titlesmith.models import hub, limits
from titlesmith.runs import Run, open_run

BASE = "base"
ADAPTER_TEMPLATE = "chatgentitle"  # a prompt of alpaca-lora


class Source(NamedTuple):
    """A model to generate with.

    Its name in messages; the format of its documents; a function that opens its back end; its parameters of notebook
    04; what finds the nearest training texts, None for those of ``format``, a corpus; and the run that trained it.
    """

    name: str
    format: DocumentFormat
    open: Callable[[], Backend]
    settings: dict
    nearest: Nearest | None = None
    run: Run | None = None


def open_source(name: str) -> Source:
    """The run of this name, or for ``base``, unless a run has that name, the model of the package (RequestError)."""
    if name == BASE and not Run(name).info:
        settings = {"prefixes": [""], "held_out": 0, "temperature": 0.8}
        format = DocumentFormat(template("title"), Tokenizer.load(base_model.FOLDER))
        return Source("the base model", format, open_base, settings, Nearest(None))
    return open_run_source(open_run(name))


def open_run_source(run: Run) -> Source:
    """A run's model (RunError if it has none)."""
    run.require("finetune")
    settings = run.record("generate").get("settings", {})
    return Source(f"run {run.name}", Corpus(run), partial(open_backend, run), settings, run=run)


def open_adapter_source(adapter: Path, base: str, quantize: str, named: str | None, run: Run | None) -> Source:
    """A model with an adapter that was trained elsewhere (RequestError).

    ``adapter, base, quantize`` as in `titlesmith.generate.open_adapter`; ``named`` is the template's name. A run lends
    its template, settings and training texts; its vocabulary must be the model's.
    """
    if base and not hub.is_hub(base):
        raise RequestError(f"--base {shorten(base)}: an adapter needs a model of the transformers library, hf:NAME")
    if run and named:
        raise RequestError(f"--template {shorten(named)}: run {run.name} has its own template; omit one of the two")
    hub.check_installed()
    hub.check_adapter(adapter)
    limits.check_quantize(quantize)
    chosen = template(named or ADAPTER_TEMPLATE)
    base = base or hub.base_of(adapter)
    tokenizer = Tokenizer.load(hub.folder(base))
    if (adapter / CODEC).exists():  # the adapter was trained with this end of text
        tokenizer = tokenizer.with_end(Tokenizer.load(adapter).eos_id)
    corpus = Corpus(run) if run else DocumentFormat(chosen, tokenizer)
    if not run and not (adapter / CODEC).exists() and tokenizer.bos_ids:
        corpus.layout.before = []  # other programs put no end of text before the first document
    if corpus.tokenizer.vocabulary != tokenizer.vocabulary:
        raise RequestError(f"--adapter {adapter}: run {run.name} was not tokenized for {base}: omit the run")

    def open() -> Backend:
        backend = open_adapter(base, adapter, quantize)
        backend.tokenizer = corpus.tokenizer
        return backend

    if run:
        return Source(f"run {run.name}", corpus, open, run.record("generate").get("settings", {}))
    return Source(f"the adapter in {adapter}", corpus, open, {"prefixes": [""], "held_out": 0}, Nearest(None))
