"""The budget of an evaluation: how many documents are measured, from what training read."""

import numpy as np

from titlesmith.corpus import SPLITS, Corpus
from titlesmith.evaluate.measurement import evenly_spread

# Measuring a token takes at most as long as training on it, usually a third (Kaplan et al. 2020). So these shares of
# the tokens that training read take at most a fifth of its time; equal runs measure equal documents, unlike by a clock.
SHARES = {"test": 0.08, "valid": 0.04, "train": 0.03, "snapshot": 0.05}
MIN_DOCUMENTS = 200


def tokens_read(settings: dict, steps: float) -> float:
    """Tokens that a training reads in ``steps`` steps, with the parameters of notebook 03."""
    return steps * settings["batch_size"] * settings["accumulate"] * settings["block_size"]


def affordable(corpus: Corpus, split: str, tokens: float) -> int:
    """How many documents of a split have ``tokens`` tokens together; `MIN_DOCUMENTS` at least, if there are as many."""
    documents = corpus.documents(split)
    mean = len(documents.ids) / max(1, len(documents))
    return min(len(documents), max(MIN_DOCUMENTS, int(tokens / mean)))


def measured_documents(corpus: Corpus, maximum: int, trained: float) -> dict[str, np.ndarray]:
    """Indices of documents: at most ``maximum`` of train and all others; for 0, as many as `SHARES` allow."""
    chosen = {}
    for name, size in ((name, len(corpus.documents(name))) for name in SPLITS):
        fixed = maximum if name == "train" else size
        chosen[name] = evenly_spread(size, fixed if maximum else affordable(corpus, name, SHARES[name] * trained))
    return chosen
