"""Engines: the libraries that a model is trained with; the model's name says which."""

from importlib.util import find_spec

from titlesmith.corpus import Corpus
from titlesmith.engines.base import Engine
from titlesmith.errors import RequestError
from titlesmith.models import SCRATCH, folder
from titlesmith.run import Run


def start(run: Run, model: str, corpus: Corpus, seed: int) -> Engine:
    """The model to fine-tune: where an interrupted training of this run was, or a new training's start.

    Raises
    ------
    RequestError
        The model is not here, or its vocabulary is not the corpus's.
    """
    from titlesmith.engines.gpt2 import GPT2Engine  # TensorFlow takes seconds to import

    for path in (run / "model" / "last", run / "model"):
        if (path / "checkpoint").exists():
            return GPT2Engine.load(path)
    if model == "scratch":
        return GPT2Engine(corpus.tokenizer, SCRATCH | {"n_vocab": len(corpus.tokenizer)}, seed)
    engine = GPT2Engine.load(folder(model), resume=False)
    if engine.tokenizer.vocabulary != corpus.tokenizer.vocabulary:
        raise RequestError(f"model: the corpus was not tokenized for {model}: run notebook 02 with model={model!r}")
    return engine


def load(run: Run) -> Engine:
    """The fine-tuned model of a run; its texts come from an export to CTranslate2 where there is one of this model."""
    from titlesmith.export import fresh

    run.require("finetune")
    exported = find_spec("ctranslate2") and fresh(run, "ctranslate2")
    if exported:
        from titlesmith.engines.ctranslate2 import Exported

        return Exported(exported, run / "model", lambda: _load(run))
    return _load(run)


def _load(run: Run) -> Engine:
    from titlesmith.engines.gpt2 import GPT2Engine

    return GPT2Engine.load(run / "model", resume=False)
