"""Generated texts: drawn from an engine, checked, compared with the training texts, written as they come."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from zlib import crc32

import numpy as np

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.clean import fold
from titlesmith.errors import RequestError
from titlesmith.generate.nearest import Nearest, Unknown
from titlesmith.generate.prompts import CHOOSING, Request, check_sampling, plain, requests
from titlesmith.generate.token_healing import Beginnings, beginnings
from titlesmith.runs.record import Run, replacing
from titlesmith.train.loop import SAMPLING, Draw, Engine

__all__ = ["Request", "columns", "draw", "generate", "is_clean", "lacking", "requests"]
FRAGMENTS = ("<|", "|>", "endoftext", "startoftext", "\ufffd")
ROUNDS = 5  # draws of a text that is unfinished or not clean
MORE_ROUNDS = 20  # draws of one that must be new, while every round finds some that are
BLOCK = 128  # texts that are drawn together, and written together
COLUMNS = {  # of a table of rows, and their headings
    "prefix": "prefix",
    "prompt": "prompt",
    "text": "generated text",
    "logprob": "log-probability",
    "finished": "finished",
    "nearest": "nearest training text",
    "nearest_similarity": "similarity",
}


def is_clean(text: str, prefix: str = "") -> bool:
    """Whether a text is free of delimiter fragments, undecodable bytes, line breaks and control characters.

    Those of the prefix that it begins with do not count.
    """
    fragments = any(text.count(fragment) > prefix.count(fragment) for fragment in FRAGMENTS)
    return not fragments and not any(unicodedata.category(c) == "Cc" for c in text[len(prefix) :])


def draw(
    engine: Engine,
    corpus: DocumentFormat,
    requests: list[Request],
    settings: dict,
    nearest: Nearest | Unknown | None = None,
) -> Iterator[dict]:
    """Draws ``count`` texts for each request, in shared batches.

    Parameters
    ----------
    engine
        The fine-tuned model (`titlesmith.train.load`).
    corpus
        What it was trained on.
    requests
        What to complete. White space and control characters of a prefix become plain spaces.
    settings
        ``count``, ``seed`` and what else `Engine.generate` takes; ``unique`` to leave out repeats and copies of
        training texts; ``best_of`` N to draw N times as many, leave those out, and keep the likeliest by mean
        log-probability. What is left out is off, or as in `titlesmith.train.loop.SAMPLING`.
    nearest
        Finds copies and the nearest training texts; made from the corpus where it is left out.

    Returns
    -------
    iterator of dict
        The lines of texts.jsonl, in the order of the requests, as they come. ``text`` begins with ``prefix`` to the
        letter. ``logprob`` is the mean log-probability, in nats, of the tokens behind the prefix, given it, under the
        model itself. ``finished`` is false for a text that was unfinished or held an artifact in every round. Fewer
        than ``count`` come where no more that are new were found (`lacking`).

    Raises
    ------
    RequestError
        At once, before anything is drawn: a prompt and ``max_tokens`` exceed the model's context, the template has no
        prompt, or settings do not fit together.
    """
    drawing = Drawing(engine, corpus, requests, settings, nearest)
    return chain.from_iterable(map(drawing.block, range(len(drawing.blocks))))


def generate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> list[dict]:
    """Writes ``texts.jsonl``, block by block.

    What an interrupted call wrote is kept; the rest is what it would have been.

    Parameters
    ----------
    run
        Where to write; its record says how far the file is whole.
    engine, corpus
        The fine-tuned model and what it was trained on.
    settings
        The parameters of notebook 04.

    Returns
    -------
    list of dict
        The lines of texts.jsonl, as `draw` gives them.
    """
    path, asked = run / "texts.jsonl", requests(corpus, settings)
    drawing = Drawing(engine, corpus, asked, settings)
    blocks, whole = run.record("generate").get("drawn", (0, 0))
    lines = path.read_text("utf-8").split("\n")[:-1][:whole] if path.exists() else []
    rows = [json.loads(line) for line in lines]
    if len(rows) < whole:  # not the file that was left
        blocks, rows = 0, []
    drawing.seen.update(fold(row["text"]) for row in rows)
    with replacing(path) as temporary:
        temporary.write_text("".join(map(line, rows)), "utf-8")
    with path.open("a", encoding="utf-8") as file:
        for number in range(blocks, len(drawing.blocks)):
            new = drawing.block(number)
            file.write("".join(map(line, new)))
            file.flush()
            rows += new
            run.update_stage("generate", drawn=(number + 1, len(rows)))
    print(*lacking(asked, rows, settings["count"]), sep="\n", end="")
    run.finish("generate")
    return rows


def columns(rows: list[dict]) -> dict[str, str]:
    """Columns of a table of rows, and their headings; prompts and what is finished only where rows differ in it."""
    same = {key for key in ("prompt", "finished") if len({row[key] for row in rows}) == 1}
    return {key: heading for key, heading in COLUMNS.items() if key not in same}


def line(row: dict) -> str:
    """A row as a line of texts.jsonl."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def lacking(requests: list[Request], rows: list[dict], count: int) -> list[str]:
    """A sentence for each request that has fewer than ``count`` texts."""
    found = Counter((row["prompt"], row["prefix"]) for row in rows)
    texts = {request: found[request.prompt, plain(request.prefix)] for request in requests}
    return [
        f"{(r.prefix or r.prompt)[:60]!r}: {n:,} of {count:,} texts; no more were found that are neither repeats nor "
        "copies of training texts. Raise temperature or top_k\n"
        for r, n in texts.items()
        if n < count
    ]


class Drawing:
    """Texts for requests, in blocks.

    What a request's texts are depends on the seed and the request alone, but for which are new where they must be.

    Parameters
    ----------
    engine, corpus, requests, settings, nearest
        As of `draw`, which says what is refused.

    Attributes
    ----------
    blocks
        What stands in each: whole requests, or a part of one, with its number; and how many texts of which request.
    seen
        Texts so far, folded.
    """

    def __init__(
        self,
        engine: Engine,
        corpus: DocumentFormat,
        requests: list[Request],
        settings: dict,
        nearest: Nearest | Unknown | None = None,
    ):
        self.engine, self.corpus = engine, corpus
        self.settings = SAMPLING | CHOOSING | settings
        self.unique = self.settings["unique"] or self.settings["best_of"] > 1
        self.requests = [replace(request, prefix=plain(request.prefix)) for request in requests]
        self._check()
        self.nearest = nearest or Nearest(corpus)
        self.seen: set[str] = set()
        self._beginnings: dict[int, Beginnings] = {}
        self.blocks = list(self._blocks())

    def _blocks(self) -> Iterator[tuple[int, dict[int, int]]]:
        count = self.settings["count"]
        if count <= BLOCK:
            together = BLOCK // count
            for first in range(0, len(self.requests), together):
                yield 0, dict.fromkeys(range(first, min(first + together, len(self.requests))), count)
        else:
            for request in range(len(self.requests)):
                for part, first in enumerate(range(0, count, BLOCK)):
                    yield part, {request: min(BLOCK, count - first)}

    def _check(self) -> None:
        check_sampling(self.settings)
        tokens, context = self.settings["max_tokens"], self.engine.context
        longest, size = Request(), 0
        for request in self.requests:
            if request.prompt and not self.corpus.has_prompt:
                raise RequestError(f"the template of this run takes no prompt: {request.prompt[:60]!r}. Use a prefix")
            takes = len(self.corpus.layout.prompt_ids(request.prompt, self.corpus.clean_prefix(request.prefix)))
            longest, size = max((longest, size), (request, takes), key=lambda pair: pair[1])
        given = max(longest.prefix, longest.prompt, key=len)
        shown = f"{given[:60]!r}{'...' * (len(given) > 60)}"
        if given and size >= context:
            kind = "prefix" if given == longest.prefix else "prompt"
            raise RequestError(
                f"the {kind} {shown} is too long: what is given takes {size} tokens, and the model reads {context}. "
                f"Shorten the {kind}"
            )
        if size + tokens > context:
            behind, shorten = (f" behind {shown}, which takes {size},", ", or shorten that") if given else ("", "")
            raise RequestError(
                f"generate.max_tokens: {tokens} tokens{behind} exceed the model's context of {context}: lower "
                f"max_tokens to {context - size}{shorten}"
            )

    def block(self, number: int) -> list[dict]:
        """The rows of a block, in the order of the requests."""
        part, wanted = self.blocks[number]
        kept: dict[int, list[dict]] = {request: [] for request in wanted}
        spare: dict[int, list[dict]] = {}
        for round in range(MORE_ROUNDS if self.unique else ROUNDS):
            missing = {r: count - len(kept[r]) for r, count in wanted.items() if count > len(kept[r])}
            if not missing or (round and self.settings["beams"] > 1):  # which would find the same again
                break
            found = False
            for request, rows in self._draw(missing, [part, round]).items():
                spare[request] = [row for row in rows if not row["finished"] and self._is_new(row)]
                for row in rows:
                    if row["finished"] and len(kept[request]) < wanted[request] and self._is_new(row):
                        self.seen.add(fold(row["text"]))
                        kept[request].append(row)
                        found = True
            if round >= ROUNDS and not found:
                break
        rows = [row for r, count in wanted.items() for row in [*kept[r], *spare.get(r, [])][:count]]
        for row, match in zip(rows, self.nearest.find([row["text"] for row in rows]), strict=True):
            paper = row.pop("paper")
            row |= {"nearest_id": match.id, "nearest": match.text, "nearest_similarity": match.similarity}
            row["paper"] = paper
        return rows

    def _is_new(self, row: dict) -> bool:
        return not self.unique or not (fold(row["text"]) in self.seen or self.nearest.is_copy(row["text"]))

    def _draw(self, missing: dict[int, int], place: list[int]) -> dict[int, list[dict]]:
        """Rows for some requests: as many as are missing, or ``best_of`` times that, likeliest first."""
        settings, beams = self.settings, self.settings["beams"] > 1
        seed = [*np.atleast_1d(settings["seed"]).tolist(), *place]
        chosen: list[tuple[int, int]] = []  # request, and its way to begin
        for number, count in missing.items():
            request = self.requests[number]
            own = np.random.default_rng([*seed, crc32(f"{request.prompt}\0{request.prefix}".encode())])
            ways = self._begin(number).draw(1 if beams else count * settings["best_of"], settings, own)
            chosen += [(number, way) for way in ways]
        prompts = [self._begin(request).ids[way] for request, way in chosen]
        draws = self.engine.generate(prompts, settings | {"count": settings["count"] if beams else 1, "seed": seed})
        rows: dict[int, list[dict]] = {request: [] for request in missing}
        for (request, way), some in zip(chosen, draws, strict=True):
            rows[request] += [self._row(request, way, draw) for draw in some]
        if settings["best_of"] > 1:
            rows = {request: sorted(found, key=lambda row: -row["logprob"]) for request, found in rows.items()}
        return rows

    def _begin(self, number: int) -> Beginnings:
        if number not in self._beginnings:
            request, longest = self.requests[number], self.engine.context - self.settings["max_tokens"]
            prefix = self.corpus.clean_prefix(request.prefix)
            self._beginnings[number] = beginnings(self.engine, self.corpus, request.prompt, prefix, longest)
        return self._beginnings[number]

    def _row(self, number: int, way: int, draw: Draw) -> dict:
        request, begin, layout = self.requests[number], self._begin(number), self.corpus.layout
        completion = begin.ids[way][len(layout.prompt_ids(request.prompt)) :] + draw.ids
        # Cut by bytes, so that a character whose bytes lie in two tokens comes out whole
        rest = layout.tokenizer.decode_after(self.corpus.clean_prefix(request.prefix), completion)
        rest, stopped = layout.cut_at_stop(rest)
        text, tokens = request.prefix + rest, begin.beyond[way] + len(draw.ids)
        nats = begin.logprob[way] + draw.logprob * (len(draw.ids) + draw.finished)
        return {
            "prefix": request.prefix,
            "prompt": request.prompt,
            "text": text,
            "tokens": tokens,
            "logprob": round(float(nats) / max(1, tokens + draw.finished), 4),
            "finished": bool((draw.finished or stopped) and text.strip() and is_clean(text, request.prefix)),
            "paper": request.paper,
        }
