"""The sampled softmax: a training step over the tokens of the corpus and a sample of the others.

The other ids are not trained one by one. So that their probability falls nevertheless, each step samples some of them
into the softmax, where each counts for many (Jean et al. 2015), and the sum of their gradients moves all of them alike.
"""

from typing import TYPE_CHECKING

import numpy as np

from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer

if TYPE_CHECKING:  # training needs token ids alone, and not the library of tables
    from titlesmith.corpus import Corpus

SAMPLED = 1024  # other ids in the softmax of a step
SHIFT_LR_SCALE = 0.75  # the others share one update; each alone would move less along their common direction


class SampledVocabulary:
    """The used ids of a vocabulary, whose embeddings are in a separate table, and samples of the others.

    ``size`` is that of the vocabulary; ``used`` are sorted. Each of the ``num_sampled`` other ids in a sample counts
    for ``scale`` ids.
    """

    def __init__(self, size: int, used: np.ndarray):
        self._others = np.setdiff1d(np.arange(size), used)
        self._rows = np.zeros(size, np.int32)
        self._rows[used] = np.arange(len(used))
        self.num_sampled = min(SAMPLED, len(self._others))
        self.scale = len(self._others) / self.num_sampled

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the table for ids of the vocabulary."""
        return self._rows[ids]

    def sample(self, seed: list[int]) -> np.ndarray:
        """Other ids, decided by the seed, shape (num_sampled,)."""
        return np.random.default_rng(seed).choice(self._others, self.num_sampled, replace=False)


def trained_ids(corpus: "Corpus", settings: dict) -> np.ndarray | None:
    """The ids whose embeddings train, sorted; None for all.

    ``vocabulary: auto`` selects those of the corpus for a pretrained model, if they are less than half. For models of
    transformers, the ids that the model expects are added (`HuggingFaceEngine`): without them, SmolLM2 gave a fifth of
    its probability to other ids, and learned worse. With 4,000 of them it learned as with the full vocabulary.
    """
    setting = settings["vocabulary"]
    if setting == "full" or (setting == "auto" and settings["model"] in models.RANDOM):
        return None
    used = used_ids(corpus.documents("train").ids, corpus.tokenizer)
    return used if len(used) * (1 if setting == "corpus" else 2) < len(corpus.tokenizer) else None


def used_ids(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The vocabulary's ids that occur in ``ids``, all single bytes, and the end of text, sorted."""
    used = np.zeros(len(tokenizer), bool)
    for start in range(0, len(ids), 2**22):
        used[ids[start : start + 2**22]] = True
    if tokenizer.is_byte_level:
        used[[i for token, i in tokenizer.vocabulary.items() if len(token) == 1]] = True
    used[[i for i in (tokenizer.vocabulary.get(f"<0x{byte:02X}>") for byte in range(256)) if i is not None]] = True
    used[tokenizer.eos_id] = True
    return np.flatnonzero(used).astype(np.int32)


def describe_softmax(count: int, size: int) -> dict[str, str]:
    """What `titlesmith.train.loop.Engine.choices` says of a softmax over ``count`` of ``size`` tokens."""
    return {"softmax": f"all {size:,} tokens" if count == size else f"{count:,} of {size:,} tokens, and a sample"}
