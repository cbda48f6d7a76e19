"""Perplexity: the number of equally likely tokens that would be as hard to predict."""

import math

import numpy as np

from titlesmith.corpus.documents import Documents
from titlesmith.evaluate.measurement import Measurement, MissingError, ratio
from titlesmith.train import Engine

MAX_LOSS = 690.0  # nats whose exponential is still a float


def losses(engine: Engine, documents: Documents, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nats and predicted tokens of each chosen document, or a MissingError; prompts do not count."""
    if not len(chosen):
        raise MissingError("the split has no document")
    nats, tokens = engine.document_losses(documents, chosen)
    if not np.isfinite(nats).all():
        raise MissingError("the model's loss is not finite: its training diverged")
    if not tokens.sum():
        raise MissingError("no document leaves the model a token to predict: the prompts fill its context")
    return nats, tokens


def perplexity(nats: np.ndarray, tokens: np.ndarray, seed: int) -> Measurement:
    """exp of the mean loss per token, from the `losses` of documents, over which the bootstrap is."""
    loss = ratio(nats, tokens, seed)
    value, low, high = (math.exp(min(nats, MAX_LOSS)) for nats in (loss.value, *loss.interval))
    return Measurement(value, (low, high))
