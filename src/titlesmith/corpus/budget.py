"""The budget of measurements: how many documents are measured, from what training reads."""

from typing import TYPE_CHECKING

import numpy as np

from titlesmith.corpus.split import SPLITS

if TYPE_CHECKING:  # training needs token ids alone, and not the library of tables
    from titlesmith.corpus import Corpus

# Measuring a token takes at most as long as training on it, usually a third (Kaplan et al. 2020). So these shares of
# the tokens that training read take at most a fifth of its time; equal runs measure equal documents, unlike by a clock.
SHARES = {"test": 0.08, "valid": 0.04, "train": 0.03, "snapshot": 0.05}
VALIDATION_SHARE = 0.2  # of the tokens that training reads between two validations
MIN_DOCUMENTS = 200


def evenly_spread(size: int, maximum: int) -> np.ndarray:
    """Indices of at most ``maximum`` of ``size`` things, evenly spread, in order."""
    return np.arange(size) if size <= maximum else np.linspace(0, size - 1, maximum).round().astype(int)


def tokens_read(settings: dict, steps: float) -> float:
    """Tokens that a training reads in ``steps`` steps, with the parameters of notebook 03."""
    return steps * settings["batch_size"] * settings["accumulate"] * settings["block_size"]


def affordable(corpus: "Corpus", split: str, tokens: float, maximum: int = 0) -> np.ndarray:
    """Indices of ``maximum`` documents of a split; for 0, of those with ``tokens`` together, or of `MIN_DOCUMENTS`."""
    documents = corpus.documents(split)
    mean = len(documents.ids) / max(1, len(documents))
    return evenly_spread(len(documents), maximum or max(MIN_DOCUMENTS, int(tokens / mean)))


def validated_documents(corpus: "Corpus", settings: dict) -> np.ndarray:
    """Indices of the documents of a validation during training, with the parameters of notebook 03."""
    read = VALIDATION_SHARE * tokens_read(settings, settings["validate_every"] or settings["steps"])
    return affordable(corpus, "valid", read, settings["validate_documents"])


def measured_documents(corpus: "Corpus", maximum: int, trained: float) -> dict[str, np.ndarray]:
    """Indices of documents: at most ``maximum`` of train and all others; for 0, as many as `SHARES` allow."""
    limits = {name: maximum and len(corpus.documents(name)) for name in SPLITS} | {"train": maximum}
    return {name: affordable(corpus, name, SHARES[name] * trained, limit) for name, limit in limits.items()}
