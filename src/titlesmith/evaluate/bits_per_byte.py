"""Bits per byte: the loss per byte of text, which compares models with different vocabularies."""

import math

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.held_out import documents_at
from titlesmith.evaluate.measurement import Measurement, ratio


def bits_per_byte(nats: np.ndarray, sizes: np.ndarray, seed: int) -> Measurement:
    """The texts' loss, nats of shape (documents,), in bits, divided by their bytes in UTF-8 (Gao et al. 2020)."""
    return ratio(nats / math.log(2), sizes, seed)


def measured_bytes(corpus: Corpus, split: str, chosen: np.ndarray, context: int) -> np.ndarray:
    """Bytes of the completions of documents with ascending indices, cut like the documents that a model reads."""
    documents, texts = corpus.documents(split), documents_at(corpus, split, chosen)["completion"].to_list()
    limit = min(context, documents.context or context)
    for row, i in enumerate(chosen.tolist()):
        ids = documents[i]
        if len(ids) > limit:  # the text is longer than what was measured
            texts[row] = corpus.layout.decode(ids[:limit][documents.loss_mask(ids)[:limit] > 0])
    return utf8_bytes(texts)


def utf8_bytes(texts: list[str]) -> np.ndarray:
    """Bytes of each text in UTF-8, shape (texts,)."""
    return np.array([len(text.encode("utf-8", "replace")) for text in texts])
