"""The part of a vocabulary that trains, and what stands for the other ids meanwhile."""

import numpy as np
import tensorflow as tf

from titlesmith.corpus import Corpus
from titlesmith.corpus.tokenizer import Tokenizer

tf1 = tf.compat.v1
SAMPLED = 1024  # of the other ids, so many are in the softmax of a step
SLOWER = 0.75  # learning rate of what they share: each on its own would find less of a common direction


class Part:
    """Embeddings of some ids in a table of their own, in the current graph, so that a step is about these alone.

    The others do not train one by one. So that what they are given is trained down nevertheless, each step draws a few
    of them that stand for all in the softmax (Jean et al. 2015), and what these would learn moves all of them alike.

    Parameters
    ----------
    wte
        The whole table, (vocabulary, D).
    used
        The ids, in order.

    Attributes
    ----------
    table
        Variable (ids, D), which trains in the place of ``wte``.
    shift
        Variable (D,): how far the others have moved since ``write`` was run.
    others
        Placeholder: the ids that are drawn.
    scale
        How many ids each of these stands for.
    read, write
        What to run to get the table from ``wte``, and to bring ``wte`` up to date.
    """

    def __init__(self, wte: tf.Variable, used: np.ndarray):
        whole, width = wte.shape
        self._rest = np.setdiff1d(np.arange(whole), used)
        self._compact = np.zeros(whole, np.int32)
        self._compact[used] = np.arange(len(used))
        sampled = min(SAMPLED, len(self._rest))
        self.others, self.scale = tf1.placeholder(tf.int32, [sampled]), len(self._rest) / sampled
        with tf1.variable_scope("titlesmith", reuse=tf1.AUTO_REUSE):
            self.table = tf1.get_variable("wte", [len(used), width], trainable=False)
            self.shift = tf1.get_variable("shift", [width], initializer=tf1.zeros_initializer(), trainable=False)
        self.read = tf.group(tf1.assign(self.table, tf.gather(wte, used)), self.shift.initializer)
        written = tf1.assign(wte, tf.tensor_scatter_nd_update(wte + self.shift, used[:, None], self.table))
        with tf.control_dependencies([written]):
            self.write = tf1.assign(self.shift, tf.zeros([width])).op

    def compact(self, ids: np.ndarray) -> np.ndarray:
        """Rows of the table for ids of the vocabulary."""
        return self._compact[ids]

    def draw(self, seed: list[int]) -> np.ndarray:
        """Ids for `others`, decided by the seed."""
        return np.random.default_rng(seed).choice(self._rest, self.others.shape[0], replace=False)


def trained_ids(corpus: Corpus, settings: dict) -> np.ndarray | None:
    """The ids whose embeddings train (``vocabulary``), in order; None for all.

    On its own (``auto``) a training takes those of the corpus where weights are given and they are less than half.
    """
    asked, whole = settings["vocabulary"], len(corpus.tokenizer)
    if asked == "full" or (asked == "auto" and settings["model"] == "scratch"):
        return None
    used = used_ids(corpus.documents("train").ids, corpus.tokenizer)
    return used if len(used) < (whole if asked == "corpus" else whole // 2) else None


def used_ids(ids: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The vocabulary's ids that occur in ``ids``, all single bytes, and the end of text, in order."""
    used = np.zeros(len(tokenizer), bool)
    for start in range(0, len(ids), 2**22):
        used[ids[start : start + 2**22]] = True
    used[[i for token, i in tokenizer.vocabulary.items() if len(token) == 1 or i == tokenizer.eos_id]] = True
    return np.flatnonzero(used).astype(np.int32)
