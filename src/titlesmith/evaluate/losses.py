"""Perplexity and bits per byte: how well a model predicts documents."""

import math

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.held_out import documents_at
from titlesmith.evaluate.measurement import Measurement, Measurements, ratio
from titlesmith.train import Engine


def measure_losses(engine: Engine, corpus: Corpus, split: str, chosen: np.ndarray, seed: int) -> Measurements:
    """``perplexity`` and ``bits_per_byte`` of documents of a split, with ascending indices; prompts do not count."""
    measurements = Measurements()
    nats, tokens = engine.document_losses(corpus.documents(split), chosen)
    measurements.add("perplexity", perplexity, nats, tokens, seed)
    measurements.add("bits_per_byte", bits_per_byte, nats, measured_bytes(corpus, split, chosen, engine.context), seed)
    return measurements


def perplexity(nats: np.ndarray, tokens: np.ndarray, seed: int) -> Measurement:
    """exp of the mean loss per token: the number of equally likely tokens that would be as hard to predict."""
    loss = ratio(nats, tokens, seed)
    value, *interval = np.exp([loss.value, *loss.interval]).tolist()
    return Measurement(value, tuple(interval))


def bits_per_byte(nats: np.ndarray, sizes: np.ndarray, seed: int) -> Measurement:
    """The texts' loss in bits, divided by their bytes in UTF-8 (Gao et al. 2020): compares different vocabularies."""
    return ratio(nats / math.log(2), sizes, seed)


def measured_bytes(corpus: Corpus, split: str, chosen: np.ndarray, context: int) -> np.ndarray:
    """Bytes of the completions of documents with ascending indices, cut like the documents that a model reads."""
    documents, texts = corpus.documents(split), documents_at(corpus, split, chosen)["completion"].to_list()
    for row, i in enumerate(chosen.tolist()):
        ids, (first, end) = documents[i], documents.targets[i]
        if min(end, context) < len(ids):  # the text is longer than what was measured
            texts[row] = corpus.layout.decode(ids[first : min(end, context)])
    return utf8_bytes(texts)


def utf8_bytes(texts: list[str]) -> np.ndarray:
    """Bytes of each text in UTF-8, shape (texts,)."""
    return np.array([len(text.encode("utf-8", "replace")) for text in texts])
