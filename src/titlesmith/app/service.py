"""Service: a run's model that people and programs ask for texts, with what they may ask for."""

import secrets
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from titlesmith.corpus import Corpus
from titlesmith.errors import RequestError
from titlesmith.evaluate.copies import NEAR
from titlesmith.generate import GenerationSettings, Nearest, Request, generate, open_backend
from titlesmith.generate.prompts import held_out, plain
from titlesmith.runs import Run
from titlesmith.settings import Parameter, declared

LONGEST = 20_000  # characters of a box; an abstract of arXiv has 1,920 at most
EXAMPLES = 6
MOST = {"count": 20, "temperature": 2.0, "seed": 2**53 - 1}  # of one request, where notebook 04 allows more
LABELS = {
    "count": "Number of texts",
    "temperature": "Temperature",
    "top_p": "Top-p",
    "top_k": "Top-k",
    "beams": "Beams",
    "max_tokens": "Maximum length in tokens",
    "seed": "Seed",
}


@dataclass(frozen=True)
class Control:
    """A parameter of notebook 04 as it is offered: its declaration there, bounds of the page, default of the run."""

    parameter: Parameter
    low: float
    high: float
    default: float

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self.parameter.name

    @property
    def help(self) -> str:
        """What it does, without what is allowed."""
        return self.parameter.description

    @property
    def label(self) -> str:
        """In plain English."""
        return LABELS[self.name]

    def check(self, value: object) -> float:
        """The value, a whole number as such (RequestError where it is none that is allowed)."""
        kind = self.parameter.type
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high or value != kind(value):
            whole = "a whole number" if kind is int else "a number"
            raise RequestError(
                f"{self.label} ({self.name}) is {str(value)[:40]!r}: it takes {whole} from {self.low:g} to "
                + (f"{self.high:,}" if kind is int else f"{self.high:g}")
            )
        return kind(value)


class Service:
    """A run's model, ready to write.

    Its back end is not made for several threads: one caller at a time may `write`; `check` may be called by any.

    Attributes
    ----------
    run, corpus
        Whose model it is, and what that was trained on.
    fields
        Of the prompt, in the template's order; none where the model continues beginnings.
    writes
        What it writes, such as ``title``.
    controls
        What a request may set, by the names of notebook 04.
    """

    def __init__(self, run: Run):
        run.require("finetune")
        self.run, self.corpus = run, Corpus(run)
        self.backend, self.nearest = open_backend(run), Nearest(self.corpus)
        template = self.corpus.template
        self.fields = template.prompt_fields
        self.writes = " and ".join(template.completion_fields)
        self._own = run.record("generate").get("settings", {})
        self.controls = {name: self._control(name) for name in LABELS}

    def _control(self, name: str) -> Control:
        parameter = declared("generate")[name]
        low, high = parameter.constraint.low, parameter.constraint.high
        room = self.backend.context - len(self.corpus.layout.prompt_ids(""))
        high = min(
            high, MOST.get(name, high), {"max_tokens": room, "top_k": len(self.corpus.tokenizer)}.get(name, high)
        )
        default = min(self._own.get(name, parameter.default), high)
        return Control(parameter, max(low, 0.05 if parameter.type is float else low), high, default)

    @property
    def task(self) -> str:
        """What the model does, in a few words, such as ``a title for my abstract``."""
        an = "an" if self.writes[0] in "aeiou" else "a"
        if not self.fields:
            return f"{self.writes}s from a beginning"
        return f"{an} {self.writes} for my {' and '.join(self.fields)}"

    def check(self, fields: dict[str, str], begins_with: str = "", max_tokens: int | None = None) -> Request:
        """What is to be completed, before any work.

        Parameters
        ----------
        fields
            Texts by the names of `fields`.
        begins_with
            The beginning of what is written; only white space is none.
        max_tokens
            What the text may take of the model's context; the control's default where it is left out.

        Raises
        ------
        RequestError
            A text is missing, or too long for the page or the model.
        """
        for name, text in (fields | {"beginning": begins_with}).items():
            if not isinstance(text, str):
                raise RequestError(f"The {name} is no text but {str(text)[:40]!r}.")
            if len(text) > LONGEST:
                raise RequestError(
                    f"The {name} has {len(text):,} characters; {LONGEST:,} are read at most. Shorten it."
                )
        cleaned = {name: self.corpus.clean(text) for name, text in fields.items()}
        if empty := [name for name, text in cleaned.items() if not text]:
            raise RequestError(f"The {' and the '.join(empty)} is empty: type or paste it first.")
        prompt = self.corpus.template.fill_prompt(cleaned)
        request = Request(prompt, plain(begins_with) if begins_with.strip() else "")
        tokens = self.controls["max_tokens"].default if max_tokens is None else max_tokens
        size = len(self.corpus.layout.prompt_ids(prompt, self.corpus.clean_prefix(request.prefix)))
        room, context = self.backend.context - size, self.backend.context
        if tokens > room:
            raise RequestError(
                f"This is too long for the model: it reads {context:,} tokens (pieces of words) at once, this text "
                f"takes {size:,} of them and the maximum length {tokens:,} more. Leave some of it out"
                + (f", or lower the maximum length to {room:,}." if room > 0 else ".")
            )
        return request

    def write(self, fields: dict[str, str], begins_with: str = "", **settings: float | None) -> dict:
        """Texts for one request.

        Parameters
        ----------
        fields, begins_with
            As `check` takes them.
        **settings
            Values of `controls`; their defaults where left out, and for ``seed`` one of its own where None. A search
            with beams gives no more texts than it has beams.

        Returns
        -------
        dict
            ``seed``, which writes the same again; ``made_up``, whether the model learned from invented papers; and
            ``texts``, for each ``text``, ``tokens``, ``logprob``, ``finished``, ``nearest_id``, ``nearest``,
            ``nearest_similarity`` as in texts.jsonl and ``copy``: ``copy``, ``near copy`` or nothing.

        Raises
        ------
        RequestError
            See `check`; or a setting is unknown or not allowed.
        """
        if unknown := settings.keys() - self.controls.keys():
            raise RequestError(f"{', '.join(unknown)} cannot be set; there are {', '.join(self.controls)}")
        settings = {name: control.default for name, control in self.controls.items()} | {"seed": None} | settings
        if settings["seed"] is None:
            settings["seed"] = secrets.randbelow(10**9)
        settings = {name: self.controls[name].check(value) for name, value in settings.items()}
        if settings["beams"] > 1:
            settings["count"] = min(settings["count"], settings["beams"])
        request = self.check(fields, begins_with, settings["max_tokens"])
        own = self._own | settings | {"unique": False, "best_of": 1}
        own["min_tokens"] = min(own.get("min_tokens", 0), own["max_tokens"])
        rows = generate(self.backend, self.corpus, [request], GenerationSettings.of(own), self.nearest)
        return {"seed": settings["seed"], "made_up": self.run.made_up, "texts": [self._row(row) for row in rows]}

    def warm_up(self) -> None:
        """Writes a text that nobody sees, because the first one takes seconds more than the next."""
        fields = dict.fromkeys(self.fields, "A study")
        self.write(fields, count=1, max_tokens=2, seed=1)

    def _row(self, row: dict) -> dict:
        copied = self.nearest.is_copy(row["text"])
        kept = {name: value for name, value in row.items() if name not in ("prefix", "prompt", "paper")}
        return kept | {"copy": "copy" if copied else "near copy" if row["nearest_similarity"] >= NEAR else ""}

    @cached_property
    def examples(self) -> list[tuple[list[str], str]]:
        """What to try: texts for the boxes (the fields, or a beginning), and how each is called.

        Held-out papers of the test split, called by their real title where the model writes titles. Where it continues
        beginnings, the run's prefixes and the first two words of held-out texts.
        """
        table = self.corpus.scan("test").select("id", "completion").collect()
        if self.fields:
            room = min(self.controls["max_tokens"].default, self.backend.context // 2)
            try:
                chosen = held_out(self.corpus, EXAMPLES, room)
            except RequestError:  # none is short enough
                return []
            real = dict(table.iter_rows())
            found = [(self.corpus.template.read(prompt), real[paper]) for prompt, paper in chosen]
            return [
                (
                    [fields[name] for name in self.fields],
                    real if self.writes == "title" else " | ".join(fields.values()),
                )
                for fields, real in found
            ]
        own = [prefix for prefix in self._own.get("prefixes", []) if prefix.strip()]
        held = (" ".join(text.split()[:2]) for text in table["completion"].gather_every(max(1, len(table) // EXAMPLES)))
        return [([begin], begin) for begin in islice(dict.fromkeys([*own, *held]), EXAMPLES)]
