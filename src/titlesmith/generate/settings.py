"""Generation settings: the parameters of notebook 04 that decide how texts are sampled, checked once."""

from dataclasses import dataclass, fields

from titlesmith.errors import RequestError


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
        if 1 < self.beams < self.count:
            texts = f"{self.count} texts of {self.beams} beams: a beam search returns at most one text per beam"
            raise RequestError(f"generate.count: {texts}. Lower count to {self.beams}, or set beams to 1")
        if self.beams > 1 and self.best_of > 1:
            raise RequestError("generate.best_of: a beam search samples nothing. Set best_of or beams to 1")
        if self.min_tokens > self.max_tokens:
            raise RequestError(f"generate.min_tokens: {self.min_tokens} is more than max_tokens, {self.max_tokens}")

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
