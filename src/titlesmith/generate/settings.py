"""Generation settings: the parameters of notebook 04 that decide how texts are sampled, checked once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from titlesmith.errors import RequestError, shorten


@dataclass(frozen=True)
class GenerationSettings:
    """How texts are sampled: parameters of notebook 04, which explains them.

    ``seed`` is a number or several. Two settings that contradict each other are a RequestError.
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
        count, beams, fewest, most = self.count, self.beams, self.min_tokens, self.max_tokens
        if 1 < beams < count:
            texts = f"{count} texts of {beams} beams: a beam search returns at most one text per beam"
            raise RequestError(f"generate.count: {texts}. Lower count to {beams}, or set beams to 1 to sample")
        if beams > 1 and self.best_of > 1:
            raise RequestError("generate.best_of: a beam search samples nothing. Set best_of or beams to 1")
        if fewest > most:
            remedy = "Lower min_tokens, or raise max_tokens"
            raise RequestError(f"generate.min_tokens: {fewest} is more than max_tokens, {most}. {remedy}")

    @classmethod
    def of(cls, parameters: dict) -> "GenerationSettings":
        """The settings among the parameters of notebook 04; missing ones have their defaults."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls) if field.name in parameters})

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always chosen."""
        return self.beams == 1 and self.top_k == 1

    @property
    def is_sampled(self) -> bool:
        """Whether two texts of one prompt can differ by chance."""
        return self.beams == 1 and self.top_k != 1

    @property
    def counts_prompt(self) -> bool:
        """Whether the tokens of the prompt count as repeated."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram > 0

    @property
    def seeds(self) -> list[int]:
        """The seed as a list of numbers."""
        return [*self.seed] if isinstance(self.seed, Sequence) else [self.seed]


def check_context(size: int, max_tokens: int, context: int, prompt: str = "") -> None:
    """Checks that a prompt of ``size`` tokens and a text of ``max_tokens`` fit into the model's context.

    If not, it is a RequestError that shows ``prompt`` and says which ``max_tokens`` would fit.
    """
    if size + max_tokens <= context:
        return
    shown = f" after {shorten(prompt)} ({size} tokens)" if prompt else ""
    remedy = f"Lower max_tokens to {context - size}" + (", or shorten the prompt" if prompt else "")
    if size >= context:
        remedy = f"Shorten the prompt or the prefix to fewer than {context} tokens"
    raise RequestError(
        f"generate.max_tokens: {max_tokens} tokens{shown} exceed the model's context of {context} tokens. {remedy}"
    )
