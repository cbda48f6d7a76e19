"""Sources: what the commands and the web page generate with, a run's model or the model of the package."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.backend import Backend, open_backend, open_base
from titlesmith.generate.nearest import Nearest
from titlesmith.models import base
from titlesmith.runs import Run, open_run

BASE = "base"


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
        format = DocumentFormat(template("title"), Tokenizer.load(base.FOLDER))
        return Source("the base model", format, open_base, settings, Nearest(None))
    return open_run_source(open_run(name))


def open_run_source(run: Run) -> Source:
    """A run's model (RunError if it has none)."""
    run.require("finetune")
    settings = run.record("generate").get("settings", {})
    return Source(f"run {run.name}", Corpus(run), partial(open_backend, run), settings, run=run)
