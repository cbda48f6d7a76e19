"""The corpus: papers cleaned, split, formatted by a template and tokenized, in ``runs/<run>/corpus/``."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titlesmith.corpus.corpus import Corpus, DocumentFormat, build, check
    from titlesmith.corpus.documents import Documents
    from titlesmith.corpus.layout import TokenLayout
    from titlesmith.corpus.split import SPLITS
    from titlesmith.corpus.template import Template
    from titlesmith.corpus.tokenizer import Tokenizer

MODULES = {
    "SPLITS": "split",
    "Corpus": "corpus",
    "DocumentFormat": "corpus",
    "Documents": "documents",
    "Template": "template",
    "TokenLayout": "layout",
    "Tokenizer": "tokenizer",
    "build": "corpus",
    "check": "corpus",
}
__all__ = [
    "SPLITS",
    "Corpus",
    "DocumentFormat",
    "Documents",
    "Template",
    "TokenLayout",
    "Tokenizer",
    "build",
    "check",
]


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: training needs token ids alone, and not the library of tables."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
