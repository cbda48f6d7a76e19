"""Perplexity: among how many tokens the model hesitates at each step."""

import math

import numpy as np

from titlesmith.corpus.documents import Documents
from titlesmith.evaluate.figures import Figure, MissingError, ratio
from titlesmith.train.loop import Engine

MOST = 690.0  # nats whose exponential is still a number


def perplexity(engine: Engine, documents: Documents, chosen: np.ndarray, seed: int) -> Figure:
    """exp of the mean loss a token, each document on its own, completions only where there are prompts.

    Parameters
    ----------
    engine
        The model.
    documents, chosen
        A split, and the numbers of the documents to measure.
    seed
        Of the bootstrap over documents.

    Raises
    ------
    MissingError
        There is no token to predict, or the model's loss is no number.
    """
    if not len(chosen):
        raise MissingError("the split has no document")
    nats, tokens = engine.document_losses(documents, chosen)
    if not np.isfinite(nats).all():
        raise MissingError("the model's loss is not finite: its training diverged")
    if not tokens.sum():
        raise MissingError("no document leaves the model a token to predict: the prompts fill its context")
    loss = ratio(nats, tokens, seed)
    value, low, high = (math.exp(min(nats, MOST)) for nats in (loss.value, *loss.interval))
    return Figure(value, (low, high))
