"""Service: a run's model that writes texts for people and programs, with checked settings."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cached_property
from queue import SimpleQueue

from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.faults import NEAR
from titlesmith.generate import GenerationSettings, Nearest, Request, TextGenerator
from titlesmith.generate.prompts import held_out, plain
from titlesmith.generate.source import Source
from titlesmith.settings import Parameter, declared

MAX_CHARACTERS = 20_000  # of a text field; an abstract of arXiv has at most 1,920
NUM_EXAMPLES = 6
UPDATE_SECONDS = 0.2  # between two states of unfinished texts
MAXIMA = {"count": 20, "temperature": 2.0}  # of one request, where notebook 04 allows more
MIN_FLOAT = 0.05
CONTROLS = ("count", "temperature", "top_p", "top_k", "beams", "max_tokens", "seed")


class Service:
    """A model, ready to write. All methods can be called from any thread; one request is answered at a time.

    ``fields`` are those of the prompt, in the template's order; a model that continues beginnings has none. ``writes``
    is the kind of text, such as ``title``. ``controls`` are the settings of a request: parameters of notebook 04, with
    the run's defaults and this page's bounds.
    """

    def __init__(self, source: Source):
        self.run, self.name, self.corpus = source.run, source.run.name if source.run else source.name, source.format
        self._worker = ThreadPoolExecutor(1)  # the back end is not thread-safe
        self.backend, self.nearest = source.open(), source.nearest or Nearest(self.corpus)
        self.made_up = bool(source.run and source.run.made_up)
        self.fields = self.corpus.template.prompt_fields
        self.writes = " and ".join(self.corpus.template.completion_fields)
        self._settings = source.settings
        self.controls = {name: self._control(name) for name in CONTROLS}

    def _control(self, name: str) -> Parameter:
        parameter = declared("generate")[name]
        room = self.backend.context - len(self.corpus.layout.prompt_ids(""))
        limits = MAXIMA | {"max_tokens": room, "top_k": len(self.corpus.tokenizer)}
        low = max(parameter.constraint.low, MIN_FLOAT if parameter.type is float else 0)
        high = min(parameter.constraint.high, limits.get(name, parameter.constraint.high))
        default = min(self._settings.get(name, parameter.default), high)
        return replace(parameter, default=default, help=f"{parameter.description}; {low} to {high}")

    @property
    def task(self) -> str:
        """The model's task in a few words, such as ``a title for my abstract``."""
        article = "an" if self.writes[0] in "aeiou" else "a"
        for_fields = f"{article} {self.writes} for my {' and '.join(self.corpus.template.required_fields)}"
        return for_fields if self.fields else f"{self.writes}s from a beginning"

    def write(self, fields: dict[str, str], begins_with: str = "", **settings: object) -> dict:
        """The last one of `stream`, with the complete texts."""
        *_, answer = self.stream(fields, begins_with, **settings)
        return answer

    def stream(self, fields: dict[str, str], begins_with: str = "", **settings: object) -> Iterator[dict]:
        """Generates the texts of one request (RequestError if a text or a setting is not allowed).

        ``fields`` are texts by the names of `fields`, ``settings`` values of `controls`; a ``seed`` of None is random.
        Yields a few times a second ``seed``, which gives the same texts again; ``made_up``, whether the training papers
        are invented; and ``texts`` so far. The last one is not ``busy``: its texts have the keys of texts.jsonl, and
        ``copy``: ``copy``, ``near copy`` or nothing. Closing the iterator ends the generation.
        """
        checked = self._checked(settings)
        generator, updates, stopped = self._generate(fields, begins_with, checked), SimpleQueue(), threading.Event()
        common = {"seed": checked["seed"], "made_up": self.made_up}
        shown = time.monotonic()

        def listen(texts: Callable[[], list[str]]) -> bool:
            nonlocal shown
            if time.monotonic() - shown > UPDATE_SECONDS:
                shown = time.monotonic()
                updates.put(texts())
            return stopped.is_set()

        # The back end computes in a thread, so that its texts can be read before all are complete
        generator.listener = listen
        future = self._worker.submit(lambda: list(map(self._row, generator)))
        future.add_done_callback(lambda _: updates.put(None))
        try:
            for texts in iter(updates.get, None):
                yield common | {"busy": True, "texts": [{"text": text.rstrip("\ufffd")} for text in texts]}
            yield common | {"texts": future.result()}
        finally:
            stopped.set()
            if not future.cancel():  # it does not wait for another request any more
                wait([future])

    def warm_up(self) -> None:
        """Generates a text and discards it: the first one takes seconds longer than the next."""
        self.write(dict.fromkeys(self.fields, "A study"), count=1, max_tokens=2, seed=1)

    def _checked(self, settings: dict) -> dict:
        """All settings of a request, by the names of `controls`."""
        chosen = {name: control.default for name, control in self.controls.items()} | {"seed": None} | settings
        if chosen["seed"] is None:
            chosen["seed"] = secrets.randbelow(10**9)
        chosen = {name: control.check(chosen[name]) for name, control in self.controls.items()}
        return chosen | ({"count": min(chosen["count"], chosen["beams"])} if chosen["beams"] > 1 else {})

    def _generate(self, fields: dict, begins_with: str, settings: dict) -> TextGenerator:
        """The rows of a request, checked now and generated when they are read."""
        for name, text in (fields | {"beginning": begins_with}).items():
            if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
                wrong = f"has {len(text):,} characters" if isinstance(text, str) else f"is not a text: {shorten(text)}"
                raise RequestError(f"The {name} {wrong}; it needs a text of at most {MAX_CHARACTERS:,} characters.")
        cleaned = {name: self.corpus.clean(plain(text)) for name, text in fields.items()}
        if empty := [name for name, text in cleaned.items() if not text]:
            raise RequestError(f"The {' and the '.join(empty)} is empty: type or paste it first.")
        prefix = begins_with if begins_with.strip() else ""
        request = Request(self.corpus.template.fill_prompt(cleaned), plain(prefix))
        own = self._settings | settings | {"unique": False, "best_of": 1}
        own["min_tokens"] = min(own.get("min_tokens", 0), own["max_tokens"])
        return TextGenerator(self.backend, self.corpus, [request], GenerationSettings.of(own), self.nearest)

    def _row(self, row: dict) -> dict:
        copied = self.nearest.is_copy(row["text"])
        kept = {name: value for name, value in row.items() if name not in ("prefix", "prompt", "paper")}
        return kept | {"copy": "copy" if copied else "near copy" if (row["nearest_similarity"] or 0) >= NEAR else ""}

    @cached_property
    def examples(self) -> list[tuple[list[str], str]]:
        """Inputs to try, each with a label: held-out papers, or without a prompt the run's prefixes."""
        if not self.fields:
            prefixes = filter(str.strip, self._settings.get("prefixes", []))
            return [([prefix], prefix) for prefix in prefixes][:NUM_EXAMPLES]
        if not self.run:
            return []
        room = min(self.controls["max_tokens"].default, self.backend.context // 2)
        try:
            chosen = held_out(self.corpus, NUM_EXAMPLES, room)
        except RequestError:  # no prompt is short enough
            return []
        titles = dict(self.corpus.scan("test").select("id", "completion").collect().iter_rows())
        inputs = [(list(self.corpus.template.read(prompt).values()), titles[paper]) for prompt, paper in chosen]
        return [(values, title if self.writes == "title" else " | ".join(values)) for values, title in inputs]
