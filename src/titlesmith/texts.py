"""Generated texts: drawn from an engine, checked, compared with the training texts, written line by line."""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold
from titlesmith.engines.base import SAMPLING, Draw, Engine
from titlesmith.errors import RequestError
from titlesmith.nearest import Nearest
from titlesmith.prefix import Beginnings, beginnings
from titlesmith.run import Run, replacing

FRAGMENTS = ("<|", "|>", "endoftext", "startoftext", "\ufffd")
ROUNDS = 5  # draws at most of a text that cannot be used: unfinished, not clean, or (where texts are unique) not new
BLOCK = 128  # texts that are drawn together, and written together
DRAWING = {"unique": False, "best_of": 1}


@dataclass(frozen=True)
class Request:
    """What to complete.

    Attributes
    ----------
    prompt
        The prompt part, empty where documents have none.
    prefix
        The beginning of the completion.
    paper
        Id of the held-out paper whose prompt it is.
    """

    prompt: str = ""
    prefix: str = ""
    paper: str | None = None


def plain(prefix: str) -> str:
    """A prefix in one line: control characters and white space of any kind are spaces, as many as they were.

    Raises
    ------
    RequestError
        It is no text: a terminal or file in another encoding than UTF-8 gave bytes that are none.
    """
    if any("\ud800" <= c <= "\udfff" for c in prefix):
        shown = prefix.encode("utf-8", "backslashreplace").decode()
        raise RequestError(f"prefix {shown!r} is not valid UTF-8: type it in a terminal, or save the file, in UTF-8")
    return "".join(" " if c.isspace() or unicodedata.category(c) == "Cc" else c for c in prefix)


def is_clean(text: str, prefix: str = "") -> bool:
    """Whether a text is free of delimiter fragments, undecodable bytes, line breaks and control characters.

    Those that the prefix has, which it begins with, do not count.
    """
    fragments = any(text.count(f) > prefix.count(f) for f in FRAGMENTS)
    return not fragments and not any(unicodedata.category(c) == "Cc" for c in text[len(prefix) :])


def draw(
    engine: Engine, corpus: Corpus, requests: list[Request], settings: dict, nearest: Nearest | None = None
) -> Iterator[dict]:
    """Draws ``count`` texts for each request, as they come: the lines of texts.jsonl.

    Parameters
    ----------
    engine
        The fine-tuned model.
    corpus
        What it was trained on.
    requests
        What to complete.
    settings
        ``count``, ``seed``, ``max_tokens`` and what else `Engine.generate` takes; ``unique`` to leave out repeats and
        copies of the training texts; ``best_of`` N to draw N times as many, leave those out, and keep the likeliest.
    nearest
        Finds copies and what is like them; made from the corpus where it is left out.

    Returns
    -------
    iterator of dict
        Rows in the order of the requests. ``finished`` is false for a text that was unfinished or held an artifact
        whenever it was drawn. Fewer than ``count`` come where no more are new.

    Raises
    ------
    RequestError
        At once, before anything is drawn: a prompt and ``max_tokens`` exceed the model's context, the template has no
        prompt, or the settings do not fit together.
    """
    drawing = _Drawing(engine, corpus, requests, settings, nearest)
    return chain.from_iterable(drawing.block(number) for number in range(len(drawing.blocks)))


class _Drawing:
    """Texts in blocks that do not depend on what was drawn before, but for which texts are new."""

    def __init__(
        self, engine: Engine, corpus: Corpus, requests: list[Request], settings: dict, nearest: Nearest | None
    ):
        self.engine, self.corpus = engine, corpus
        self.settings = SAMPLING | DRAWING | settings
        self.unique = self.settings["unique"] or self.settings["best_of"] > 1
        self.requests = [replace(request, prefix=plain(request.prefix)) for request in requests]
        self.check()
        self.nearest = nearest or Nearest(corpus)
        self.seen: set[str] = set()
        self._beginnings: dict[int, Beginnings] = {}
        self.blocks: list[list[tuple[int, int]]] = [[]]  # numbers of requests, and how many texts for each
        for number in range(len(requests)):
            left = self.settings["count"]
            while left:
                if sum(texts for _, texts in self.blocks[-1]) + min(left, BLOCK) > BLOCK:
                    self.blocks.append([])
                self.blocks[-1].append((number, min(left, BLOCK)))
                left -= min(left, BLOCK)

    def check(self) -> None:
        """See `draw`."""
        settings, context = self.settings, self.engine.context
        if settings["beams"] > 1 and settings["count"] > settings["beams"]:
            raise RequestError(
                f"generate.count: {settings['count']} texts of {settings['beams']} beams: a beam search ends with a "
                "text a beam at most; raise beams, or set it to 1 to draw"
            )
        if settings["beams"] > 1 and settings["best_of"] > 1:
            raise RequestError("generate.best_of: beams draw nothing to choose from: set best_of or beams to 1")
        for request in self.requests:
            if bool(request.prompt) > self.corpus.has_prompt:
                raise RequestError(f"the template of this run takes no prompt, such as {request.prompt[:60]!r}")
            size = len(self.corpus.layout.opening(request.prompt, self.corpus.beginning(request.prefix)))
            if size + settings["max_tokens"] > context:
                given = (request.prefix or request.prompt)[:60]
                raise RequestError(
                    f"generate.max_tokens: {given!r}... is {size} tokens; with {settings['max_tokens']} behind it that "
                    f"exceeds the model's context of {context}: lower max_tokens to {max(0, context - size)} or less, "
                    "or shorten what is given"
                )

    def block(self, number: int) -> list[dict]:
        """The rows of one block."""
        settings, wanted = self.settings, dict(self.blocks[number])
        kept: dict[int, list[dict]] = {request: [] for request in wanted}
        spare: dict[int, list[dict]] = {}
        for attempt in range(ROUNDS):
            missing = {r: most - len(kept[r]) for r, most in wanted.items() if most > len(kept[r])}
            if not missing or (attempt and settings["beams"] > 1):  # which would find the same again
                break
            seed = [*np.atleast_1d(settings["seed"]).tolist(), number, attempt]
            for request, rows in self._draw(missing, seed).items():
                rows = [row for row in rows if self._is_new(row["text"])]
                good = [row for row in rows if row["finished"]]
                spare[request] = [row for row in rows if not row["finished"]]
                if settings["best_of"] > 1:
                    good.sort(key=lambda row: -row["logprob"])
                for row in good:
                    if len(kept[request]) < wanted[request] and self._is_new(row["text"]):
                        self.seen.add(fold(row["text"]))
                        kept[request].append(row)
        for request, rows in kept.items():
            rows += spare.get(request, [])[: wanted[request] - len(rows)]
        rows = [row for request in wanted for row in kept[request]]
        matches = self.nearest.find([row["text"] for row in rows])
        for row, match in zip(rows, matches, strict=True):
            row |= {"nearest_id": match.id, "nearest": match.text, "nearest_similarity": match.similarity}
            row["paper"] = row.pop("paper")  # last
        return rows

    def _is_new(self, text: str) -> bool:
        return not self.unique or not (fold(text) in self.seen or self.nearest.is_copy(text))

    def _draw(self, missing: dict[int, int], seed: list[int]) -> dict[int, list[dict]]:
        """Rows for some of the requests, as many as are missing of each (or ``best_of`` times that), in one batch."""
        settings, rng = self.settings, np.random.default_rng(seed)
        chosen: list[tuple[int, int]] = []  # request, and its way to begin
        for request, texts in missing.items():
            count = 1 if settings["beams"] > 1 else texts * settings["best_of"]
            chosen += [(request, way) for way in self.beginnings(request).draw(count, settings, rng)]
        prompts = [self.beginnings(request).ids[way] for request, way in chosen]
        count = settings["count"] if settings["beams"] > 1 else 1
        found = self.engine.generate(prompts, settings | {"count": count, "seed": seed})
        rows: dict[int, list[dict]] = {request: [] for request in missing}
        for (request, way), draws in zip(chosen, found, strict=True):
            rows[request] += [self._row(request, way, draw) for draw in draws]
        return rows

    def beginnings(self, number: int) -> Beginnings:
        """How the texts of a request may begin."""
        if number not in self._beginnings:
            request, longest = self.requests[number], self.engine.context - self.settings["max_tokens"]
            prefix = self.corpus.beginning(request.prefix)
            self._beginnings[number] = beginnings(self.engine, self.corpus, request.prompt, prefix, longest)
        return self._beginnings[number]

    def _row(self, number: int, way: int, draw: Draw) -> dict:
        request, ways = self.requests[number], self.beginnings(number)
        opening = len(self.corpus.layout.opening(request.prompt))
        rest = self.corpus.tokenizer.rest(self.corpus.beginning(request.prefix), ways.ids[way][opening:] + draw.ids)
        rest, stopped = self.corpus.layout.until_stop(rest)
        text, tokens = request.prefix + rest, ways.drawn[way] + len(draw.ids)
        nats = ways.logprob[way] + draw.logprob * (len(draw.ids) + draw.finished)
        complete = draw.finished or stopped
        return {
            "prefix": request.prefix,
            "prompt": request.prompt,
            "text": text,
            "tokens": tokens,
            "logprob": round(float(nats) / max(1, tokens + draw.finished), 4),
            "finished": bool(complete and text.strip() and is_clean(text, request.prefix)),
            "paper": request.paper,
        }


def generate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> list[dict]:
    """TEMPORARY."""
    path = run / "texts.jsonl"
    if corpus.has_prompt:
        requests = [Request(p) for p in settings["prefixes"]]
    else:
        requests = [Request("", p) for p in settings["prefixes"]]
    rows = list(draw(engine, corpus, requests, settings))
    with replacing(path) as temporary:
        temporary.write_text("".join(map(_line, rows)), "utf-8")
    run.finish("generate")
    return rows


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
