"""Back ends: a model that samples texts. GPT-2 generates through CTranslate2, ``hf:`` models through transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.generate.settings import GenerationSettings

# Called with the index of a prompt and the next id of its completion; an exception that it raises ends the generation
Listener = Callable[[int, int], None]


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    ids: list[int]
    """The token ids after the prompt, without the end of text."""
    logprob: float
    """Mean log-probability of these and of the end of text, in nats per token, at temperature 1 without penalties."""
    finished: bool
    """Whether the model ended the text; False if ``max_tokens`` did."""

    @classmethod
    def of(cls, ids: list[int], logprob: float, end: int) -> "Completion":
        """The completion in ids that the end of text, ``end``, may follow."""
        finished = end in ids
        return cls(ids[: ids.index(end)] if finished else ids, float(logprob), finished)


class Backend(Protocol):
    """A model that generates. A prompt and ``max_tokens`` together must fit into its context."""

    tokenizer: Tokenizer
    context: int
    """Maximum length of prompt and text in tokens."""
    device: str
    """The device and the number format, for people."""

    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """Samples ``settings.count`` completions of each prompt, or returns the best ones of a beam search, in order.

        Equal seeds, prompts and settings give equal completions. `TextGenerator` applies ``unique`` and ``best_of``.
        ``listener`` is called with each new id, where the model generates them one by one.
        """

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities of the token after each prompt, float32, shape (prompts, vocabulary)."""
