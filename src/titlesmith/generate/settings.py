"""Generation settings: the parameters of notebook 04 that decide how texts are sampled, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from titlesmith.errors import RequestError, shorten


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are sampled.

    Attributes
    ----------
    count
        Texts for each prompt.
    seed
        A number, or several. The same call with the same seed returns the same texts on the same machine.
    unique
        Whether to drop repeats and copies of training texts and sample others instead.
    best_of
        Sample this many times as many texts, drop repeats and copies, keep those of the highest log-probability.
    temperature
        > 0. Below 1 sharpens the model's distribution, above 1 flattens it.
    top_k
        Sample from this many likeliest tokens; 0 for all. Applied before ``top_p``.
    top_p
        Sample from the likeliest tokens whose probabilities sum to this (Holtzman et al. 2020); 1 for all.
    repetition_penalty
        Above 1, tokens that are already in the prompt or the text become less likely (Keskar et al. 2019).
    no_repeat_ngram
        No n-gram of this many tokens occurs twice in prompt and text; 0 to allow it.
    beams
        Above 1, a beam search of this width returns the ``count`` best texts; nothing is sampled.
    min_tokens, max_tokens
        Length of a text in tokens, without the prompt.

    Raises
    ------
    RequestError
        Two settings contradict each other.
    """

    count: int = 10
    seed: int | tuple[int, ...] = 1
    unique: bool = False
    best_of: int = 1
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beams: int = 1
    min_tokens: int = 0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        if self.beams > 1 and self.count > self.beams:
            raise RequestError(
                f"generate.count: {self.count} texts of {self.beams} beams: a beam search returns at most one text per "
                f"beam. Lower count to {self.beams}, or set beams to 1 to sample"
            )
        if self.beams > 1 and self.best_of > 1:
            raise RequestError("generate.best_of: a beam search samples nothing. Set best_of or beams to 1")
        if self.min_tokens > self.max_tokens:
            raise RequestError(
                f"generate.min_tokens: {self.min_tokens} is more than max_tokens, {self.max_tokens}. Lower min_tokens, "
                "or raise max_tokens"
            )

    @classmethod
    def of(cls, parameters: dict) -> "GenerationSettings":
        """The settings among the parameters of notebook 04; parameters that are missing get their defaults."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls) if field.name in parameters})

    @property
    def is_sampled(self) -> bool:
        """Whether two texts of one prompt can differ by chance."""
        return self.beams == 1 and self.top_k != 1

    @property
    def seeds(self) -> list[int]:
        """The seed as numbers."""
        return [*self.seed] if isinstance(self.seed, Sequence) else [self.seed]


def check_context(size: int, max_tokens: int, context: int, given: str = "") -> None:
    """Checks that a prompt and a text fit into the model's context.

    Parameters
    ----------
    size
        Tokens of the prompt.
    max_tokens
        Tokens of the text.
    context
        Tokens that the model reads.
    given
        The prompt in words, for the message.

    Raises
    ------
    RequestError
        They do not fit; the message says which ``max_tokens`` would.
    """
    if size + max_tokens <= context:
        return
    prompt = f" after {shorten(given)} ({size} tokens)" if given else ""
    if size >= context:
        raise RequestError(
            f"generate.max_tokens: {max_tokens} tokens{prompt} exceed the model's context of {context} tokens. "
            f"Shorten the prompt or the prefix to fewer than {context} tokens"
        )
    raise RequestError(
        f"generate.max_tokens: {max_tokens} tokens{prompt} exceed the model's context of {context} tokens. Lower "
        f"max_tokens to {context - size}" + (", or shorten the prompt" if given else "")
    )
