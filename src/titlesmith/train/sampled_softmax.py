"""The sampled softmax: a training step over the tokens of the corpus and a sample of the others.

The other ids are not trained one by one. So that their probability falls nevertheless, each step samples some of them
into the softmax, where each counts for many (Jean et al. 2015), and the sum of their gradients moves all of them alike.
"""

import numpy as np
import tensorflow as tf

from titlesmith import models
from titlesmith.corpus import Corpus
from titlesmith.corpus.tokenizer import Tokenizer

tf1 = tf.compat.v1
SAMPLED = 1024  # other ids in the softmax of a step
SHIFT_LR_SCALE = 0.75  # the others share one update; each alone would move less along their common direction


class SampledSoftmax:
    """Embeddings of the used ids in a separate table, in the current graph, so that a step computes only with these.

    Parameters
    ----------
    wte
        The model's embeddings, (vocabulary, D).
    used
        The used ids, sorted.

    Attributes
    ----------
    table
        Variable (used ids, D), trained instead of ``wte``.
    shift
        Variable (D,): how far the other ids have moved since ``write`` was run.
    others
        Placeholder: the sampled ids.
    scale
        The number of other ids that each sampled one counts for.
    read, write
        Operations that copy ``wte`` to the table, and the table and the shift to ``wte``.
    """

    def __init__(self, wte: tf.Variable, used: np.ndarray):
        size, width = wte.shape
        self._rest = np.setdiff1d(np.arange(size), used)
        self._rows = np.zeros(size, np.int32)
        self._rows[used] = np.arange(len(used))
        sampled = min(SAMPLED, len(self._rest))
        self.others, self.scale = tf1.placeholder(tf.int32, [sampled]), len(self._rest) / sampled
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            self.table = tf1.get_variable("wte", [len(used), width], trainable=False)
            self.shift = tf1.get_variable("shift", [width], initializer=tf1.zeros_initializer(), trainable=False)
        self.read = tf.group(tf1.assign(self.table, tf.gather(wte, used)), self.shift.initializer)
        written = tf1.assign(wte, tf.tensor_scatter_nd_update(wte + self.shift, used[:, None], self.table))
        with tf.control_dependencies([written]):
            self.write = tf1.assign(self.shift, tf.zeros([width])).op

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the table for ids of the vocabulary."""
        return self._rows[ids]

    def sample(self, seed: list[int]) -> np.ndarray:
        """Ids for `others`, decided by the seed."""
        return np.random.default_rng(seed).choice(self._rest, self.others.shape[0], replace=False)


def trained_ids(corpus: Corpus, settings: dict) -> np.ndarray | None:
    """The ids whose embeddings train, sorted; None for all.

    ``vocabulary: auto`` selects those of the corpus if the model is pretrained and they are less than half.
    """
    setting, size = settings["vocabulary"], len(corpus.tokenizer)
    if setting == "full" or (setting == "auto" and settings["model"] in models.RANDOM):
        return None
    used = used_ids(corpus.documents("train").ids, corpus.tokenizer)
    return used if len(used) < (size if setting == "corpus" else size // 2) else None


def used_ids(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The vocabulary's ids that occur in ``ids``, all single bytes, and the end of text, sorted."""
    used = np.zeros(len(tokenizer), bool)
    for start in range(0, len(ids), 2**22):
        used[ids[start : start + 2**22]] = True
    used[[i for token, i in tokenizer.vocabulary.items() if len(token) == 1 or i == tokenizer.eos_id]] = True
    return np.flatnonzero(used).astype(np.int32)
