"""Prefixes: from a beginning in characters to the ids from which a model goes on.

A model reads tokens, and the end of a prefix is rarely the end of a token of the text that goes on from it. Here the
last word is taken back and drawn again, among the tokens that spell it and perhaps more, as the model has them in its
training texts ("token healing"). What is drawn is the whole beginning by its exact probability, not a token at a time:
"N" may be a likely token and "Neural" not begin with it (Vieira et al. 2024, From Language Models over Tokens to
Language Models over Characters).
"""

from dataclasses import dataclass

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.engines.base import Engine


@dataclass(frozen=True)
class Beginnings:
    """The ways in which the ids of a prefix may begin a text.

    Attributes
    ----------
    ids
        Each way: ids to generate from, end of text and prompt included.
    logprob
        Log-probability of each, given the prefix, shape (ways,).
    drawn
        For each, how many of its ids say more than the prefix: 0 or 1.
    """

    ids: list[list[int]]
    logprob: np.ndarray
    drawn: list[int]

    def draw(self, count: int, settings: dict, rng: np.random.Generator) -> list[int]:
        """Numbers of ``count`` ways, drawn as tokens are: with temperature, top-k and nucleus; beams take the best."""
        order = np.argsort(-self.logprob, kind="stable")
        if settings["beams"] > 1 or len(order) == 1:
            return [int(order[0])] * count
        weight = np.exp((self.logprob[order] - self.logprob[order[0]]) / settings["temperature"])
        weight[settings["top_k"] or len(order) :] = 0
        weight /= weight.sum()
        weight[np.cumsum(weight) - weight >= settings["top_p"]] = 0
        return order[rng.choice(len(order), count, p=weight / weight.sum())].tolist()


def beginnings(engine: Engine, corpus: Corpus, prompt: str, prefix: str, longest: int) -> Beginnings:
    """How a text may begin that begins with a prefix.

    Parameters
    ----------
    engine
        The model, which is asked once.
    corpus
        Its layout and tokenizer. A tokenizer that cannot say how words are split (no ``covers``) gives one way.
    prompt, prefix
        What is given of a document.
    longest
        The most ids that leave room for the text.
    """
    tokenizer = corpus.tokenizer
    if not prefix or not hasattr(tokenizer, "covers") or not hasattr(engine, "next"):
        return Beginnings([corpus.layout.opening(prompt, prefix)], np.zeros(1), [0])
    head, found = tokenizer.covers(prefix)
    opening = [*corpus.layout.opening(prompt), *head]
    found = {begun: ids for begun, ids in found.items() if len(opening) + len(begun) < longest} or found
    states = sorted({begun[:size] for begun in found for size in range(len(begun) + 1)}, key=len)
    rows = dict(zip(states, engine.next([opening + list(begun) for begun in states]), strict=True))
    ways, logprobs, drawn, size = [], [], [], len(prefix.encode())
    for begun, ids in found.items():
        path = sum(float(rows[begun[:i]][id]) for i, id in enumerate(begun))
        spelled = tokenizer.length([*head, *begun])
        ways += [[*opening, *begun, id] for id in ids]
        logprobs.append(path + rows[begun][ids].astype(np.float64))
        drawn += [int(spelled + tokenizer.length([id]) > size) for id in ids]
    logprob = np.concatenate(logprobs)
    top = logprob.max()
    return Beginnings(ways, logprob - top - np.log(np.exp(logprob - top).sum()), drawn)
