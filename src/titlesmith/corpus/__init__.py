"""The corpus: papers cleaned, split, formatted by a template and tokenized, in ``runs/<run>/corpus/``."""

from importlib import import_module

MODULES = {
    "SPLITS": "split",
    "Corpus": "corpus",
    "DocumentFormat": "corpus",
    "build": "building",
    "check": "corpus",
}
__all__ = list(MODULES)


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: training needs token ids alone, and not the library of tables."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
