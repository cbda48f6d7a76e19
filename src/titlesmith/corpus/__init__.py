"""The corpus: papers cleaned, split, formatted by a template and tokenized, below ``runs/<run>/corpus/``."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titlesmith.corpus.corpus import SPLITS, Corpus, DocumentFormat, build, check

__all__ = ["SPLITS", "Corpus", "DocumentFormat", "build", "check"]


def __getattr__(name: str) -> object:
    """What `__all__` names, read when it is asked for: engines need token ids alone, and not the library of tables."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("titlesmith.corpus.corpus"), name)
