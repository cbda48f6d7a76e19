"""Token healing: from a prefix in characters to the token ids that a model continues.

A model reads tokens, and the end of a prefix is rarely the end of a token of the text that continues it. So the last
word of the prefix is sampled again, among all tokenizations that spell it and perhaps more, each with its exact
probability: "N" may be a likely token, and "Neural" may not begin with it (Vieira et al. 2024, From Language Models
over Tokens to Language Models over Characters).
"""

from dataclasses import dataclass

import numpy as np

from titlesmith.corpus import DocumentFormat
from titlesmith.generate.backend import Backend
from titlesmith.generate.settings import GenerationSettings


@dataclass(frozen=True)
class TokenHealing:
    """The candidates for the ids of a prefix."""

    opening: list[int]
    """The ids before the prefix: the end of text and the prompt."""
    candidates: list[list[int]]
    """Ids that spell the prefix, and perhaps more in the last id."""
    logprobs: np.ndarray
    """Log-probability of each candidate given the prefix, shape (candidates,)."""

    @classmethod
    def of(cls, backend: Backend, corpus: DocumentFormat, prompt: str, prefix: str, max_size: int) -> "TokenHealing":
        """The candidates for a prefix after a prompt, with fewer than ``max_size`` ids where possible."""
        opening = corpus.layout.prompt_ids(prompt)
        if not prefix:
            return cls(opening, [[]], np.zeros(1))
        # The tokens of all words but the last; and for each way to begin the last word, the ids that may complete it
        head, endings = corpus.layout.completion_tokenizer.cover_encodings(prefix)
        endings = {begun: ids for begun, ids in endings.items() if len(opening) + len(head) + len(begun) < max_size}
        candidates = [[*head, *begun, last] for begun, ids in endings.items() for last in ids]
        # The probability of a candidate is the product of those of its ids after the head
        states = sorted({begun[:size] for begun in endings for size in range(len(begun) + 1)})
        prompts = [opening + head + [*begun] for begun in states]
        rows = dict(zip(states, backend.next_token_logprobs(prompts), strict=True))
        logprobs = np.concatenate([
            sum(float(rows[begun[:i]][token]) for i, token in enumerate(begun)) + rows[begun][ids].astype(np.float64)
            for begun, ids in endings.items()
        ])  # fmt: skip
        return cls(opening, candidates, logprobs - np.logaddexp.reduce(logprobs))

    def sample(self, count: int, settings: GenerationSettings, rng: np.random.Generator) -> list[int]:
        """Indices of ``count`` candidates, sampled as tokens are; beam search uses the likeliest."""
        order = np.argsort(-self.logprobs, kind="stable")
        if settings.beams > 1 or len(order) == 1:
            return [int(order[0])] * count
        weights = np.exp((self.logprobs[order] - self.logprobs[order[0]]) / settings.temperature)
        weights[settings.top_k or len(order) :] = 0
        weights /= weights.sum()
        weights[np.cumsum(weights) - weights >= settings.top_p] = 0
        return order[rng.choice(len(order), count, p=weights / weights.sum())].tolist()
