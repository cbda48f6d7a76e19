"""Prefixes: from a beginning in characters to the ids from which a model goes on.

A model reads tokens, and the end of a prefix is rarely the end of a token of the text that goes on from it. Here the
last word is taken back and drawn again, among the tokens that spell it and perhaps more, as the model has them in its
training texts ("token healing"). What is drawn is the whole beginning by its exact probability, not a token at a time:
"N" may be a likely token and "Neural" not begin with it (Vieira et al. 2024, From Language Models over Tokens to
Language Models over Characters).
"""

from dataclasses import dataclass

import numpy as np

from titlesmith.corpus import DocumentFormat
from titlesmith.train.loop import Engine


@dataclass(frozen=True)
class Beginnings:
    """The ways in which the ids of a prefix may begin a text.

    Attributes
    ----------
    ids
        Each way: ids to generate from, end of text and prompt included.
    logprob
        Log-probability of each, given the prefix, shape (ways,).
    beyond
        Whether the last id of each says more than the prefix.
    """

    ids: list[list[int]]
    logprob: np.ndarray
    beyond: list[bool]

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


def beginnings(engine: Engine, corpus: DocumentFormat, prompt: str, prefix: str, longest: int) -> Beginnings:
    """How a text may begin that begins with a prefix.

    Parameters
    ----------
    engine
        The model, which is asked once, and not where there is one way only.
    corpus
        Its layout and tokenizer.
    prompt, prefix
        What is given of a document.
    longest
        The most ids that leave room for the text.
    """
    opening = corpus.layout.prompt_ids(prompt)
    if not prefix:
        return Beginnings([opening], np.zeros(1), [False])
    tokenizer = corpus.tokenizer
    head, found = tokenizer.cover_encodings(prefix)
    found = {begun: ids for begun, ids in found.items() if len(opening) + len(head) + len(begun) < longest}
    begins = [[*head, *begun, i] for begun, ids in found.items() for i in ids]
    ways, beyond = [opening + ids for ids in begins], [tokenizer.extends(prefix, ids) for ids in begins]
    if len(ways) == 1:
        return Beginnings(ways, np.zeros(1), beyond)
    states = sorted({begun[:size] for begun in found for size in range(len(begun) + 1)})
    rows = dict(zip(states, engine.next([[*opening, *head, *begun] for begun in states]), strict=True))
    logprob = np.concatenate([
        sum(float(rows[begun[:place]][i]) for place, i in enumerate(begun)) + rows[begun][ids].astype(np.float64)
        for begun, ids in found.items()
    ])  # fmt: skip
    return Beginnings(ways, logprob - np.logaddexp.reduce(logprob), beyond)
