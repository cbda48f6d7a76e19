"""Back ends: models that sample texts, and the settings that they sample with, which are checked once.

GPT-2 generates through CTranslate2, ``hf:`` models through transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError

# Called with the index of a prompt and the next id of its completion; True ends the generation (CancelledError)
Listener = Callable[[int, int], bool]


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are sampled: parameters of notebook 04, which explains them.

    ``seed`` is a number or several; with ``top_k`` of 1, ``count`` is 1. Settings that contradict each other are a
    RequestError.
    """

    count: int = 10
    seed: int | tuple[int, ...] = 1
    unique: bool = False
    best_of: int = 1
    temperature: float = 0.9
    top_k: int = 200
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beams: int = 1
    min_tokens: int = 0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if 1 < self.beams < self.count:
            texts = f"{self.count} texts of {self.beams} beams: a beam search returns at most one text per beam"
            raise RequestError(f"generate.count: {texts}. Lower count to {self.beams}, or set beams to 1")
        if self.beams > 1 and self.best_of > 1:
            raise RequestError("generate.best_of: a beam search samples nothing. Set best_of or beams to 1")
        if self.min_tokens > self.max_tokens:
            raise RequestError(f"generate.min_tokens: {self.min_tokens} is more than max_tokens, {self.max_tokens}")
        if self.beams == self.top_k == 1:  # the likeliest token is always chosen, so all texts of a prompt are equal
            object.__setattr__(self, "count", 1)

    @classmethod
    def of(cls, parameters: dict) -> "GenerationSettings":
        """The settings among the parameters of notebook 04; missing ones have their defaults."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls) if field.name in parameters})

    @property
    def is_sampled(self) -> bool:
        """Whether two texts of one prompt can differ by chance."""
        return self.beams == 1 and self.top_k != 1

    @property
    def counts_prompt(self) -> bool:
        """Whether the tokens of the prompt count as repeated."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram > 0


@dataclass(frozen=True)
class Completion:
    """One continuation of a prompt."""

    ids: list[int]  #: The token ids after the prompt, without the end of text.
    #: Mean log-probability of these and of the end of text, in nats per token, at temperature 1 without penalties.
    logprob: float
    finished: bool  #: Whether the model ended the text; False if ``max_tokens`` did.

    @classmethod
    def of(cls, ids: list[int], logprob: float, end: int) -> "Completion":
        """The completion in ids that the end of text, ``end``, may follow."""
        finished = end in ids
        return cls(ids[: ids.index(end)] if finished else ids, float(logprob), finished)


class Backend(Protocol):
    """A model that generates. A prompt and ``max_tokens`` together must fit into its context."""

    tokenizer: Tokenizer
    context: int  #: Maximum length of prompt and text in tokens.
    device: str  #: The device and the number format, for people.

    def generate(
        self, prompts: list[list[int]], settings: GenerationSettings, listener: Listener | None = None
    ) -> list[list[Completion]]:
        """Samples ``settings.count`` completions of each prompt, or returns the best ones of a beam search, in order.

        Equal seeds, prompts and settings give equal completions. `TextGenerator` applies ``unique`` and ``best_of``.
        ``listener`` is called with each new id, where the model generates them one by one.
        """

    def next_token_logprobs(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities of the token after each prompt, float32, shape (prompts, vocabulary)."""
