"""The text generator: completions that are clean, begin with their prefix to the letter, and are new on request."""

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.clean import fold
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import Backend, Completion
from titlesmith.generate.nearest import Nearest, Unknown
from titlesmith.generate.prompts import Request, plain
from titlesmith.generate.settings import GenerationSettings, check_context
from titlesmith.generate.token_healing import TokenHealing

FRAGMENTS = ("<|", "|>", "endoftext", "startoftext", "\ufffd")  # of delimiters, and of characters
ROUNDS = 5  # times that a text is sampled until it is finished and clean
UNIQUE_ROUNDS = 20  # times that a text is sampled until it is new, as long as each round finds new ones
BLOCK = 128  # texts that are sampled together


def is_clean(text: str, prefix: str = "") -> bool:
    """Whether a text is free of delimiter fragments, undecodable bytes, line breaks and control characters.

    Those in its prefix do not count.
    """
    fragments = any(text.count(fragment) > prefix.count(fragment) for fragment in FRAGMENTS)
    return not fragments and not any(unicodedata.category(c) == "Cc" for c in text[len(prefix) :])


def generate(
    backend: Backend,
    corpus: DocumentFormat,
    requests: list[Request],
    settings: GenerationSettings,
    nearest: Nearest | Unknown | None = None,
) -> Iterator[dict]:
    """Generates texts for requests; the arguments are those of `TextGenerator`, which checks them at once.

    Returns
    -------
    iterator of dict
        The rows of texts.jsonl in the order of the requests, as soon as they are ready. ``text`` begins with ``prefix``
        to the letter. ``logprob`` is the mean log-probability, in nats, of the tokens after the prefix. ``finished`` is
        False for a text that was unfinished or not clean in every round. There are fewer than ``count`` rows where no
        more new texts were sampled.
    """
    generator = TextGenerator(backend, corpus, requests, settings, nearest)
    return chain.from_iterable(map(generator.block, range(len(generator.blocks))))


class TextGenerator:
    """Generates texts for requests, block by block.

    Parameters
    ----------
    backend
        The model.
    corpus
        The format of its documents; for `Nearest`, its training texts.
    requests
        What to complete. White space and control characters in a prefix become spaces.
    settings
        How.
    nearest
        Finds copies and the nearest training texts; made of the corpus by default.

    Attributes
    ----------
    blocks
        For each block, how many texts of which request (by number).
    seen
        The folded texts of all blocks so far, which new ones must differ from with ``unique``.

    Raises
    ------
    RequestError
        A prompt and ``max_tokens`` exceed the model's context, or the template has no prompt.
    """

    def __init__(
        self,
        backend: Backend,
        corpus: DocumentFormat,
        requests: list[Request],
        settings: GenerationSettings,
        nearest: Nearest | Unknown | None = None,
    ):
        self.backend, self.corpus, self.settings = backend, corpus, settings
        self.requests = [replace(request, prefix=plain(request.prefix)) for request in requests]
        self._check()
        self.unique = settings.unique or settings.best_of > 1
        self.nearest = nearest or Nearest(corpus)
        self.seen: set[str] = set()
        self.blocks = list(self._blocks())
        self._healed: dict[int, TokenHealing] = {}

    def _check(self) -> None:
        for request in self.requests:
            if request.prompt and not self.corpus.has_prompt:
                raise RequestError(
                    f"this run's template has no prompt: {shorten(request.prompt)}. Use a prefix instead"
                )
            opening = self.corpus.layout.prompt_ids(request.prompt, self.corpus.clean_prefix(request.prefix))
            given = max(request.prefix, request.prompt, key=len)
            check_context(len(opening), self.settings.max_tokens, self.backend.context, given)

    def _blocks(self) -> Iterator[dict[int, int]]:
        count = self.settings.count
        if count <= BLOCK:
            some = BLOCK // count
            for first in range(0, len(self.requests), some):
                yield dict.fromkeys(range(first, min(first + some, len(self.requests))), count)
        else:
            for request in range(len(self.requests)):
                for first in range(0, count, BLOCK):
                    yield {request: min(BLOCK, count - first)}

    def block(self, number: int) -> list[dict]:
        """The rows of a block, in the order of the requests."""
        wanted = self.blocks[number]
        kept: dict[int, list[dict]] = {request: [] for request in wanted}
        spare: dict[int, list[dict]] = {}
        rounds = UNIQUE_ROUNDS if self.unique else ROUNDS
        for round in range(rounds if self.settings.is_sampled else 1):
            missing = {r: count - len(kept[r]) for r, count in wanted.items() if count > len(kept[r])}
            if not missing:
                break
            progress = False
            for request, rows in self._sample(missing, number, round).items():
                # Unfinished texts of the last round fill up what is still missing in the end
                spare[request] = [row for row in rows if not row["finished"] and self._is_new(row)]
                for row in rows:
                    if row["finished"] and len(kept[request]) < wanted[request] and self._is_new(row):
                        self.seen.add(fold(row["text"]))
                        kept[request].append(row)
                        progress = True
            if round >= ROUNDS and not progress:
                break
        rows = [row for r, count in wanted.items() for row in [*kept[r], *spare.get(r, [])][:count]]
        for row, match in zip(rows, self.nearest.find([row["text"] for row in rows]), strict=True):
            paper = row.pop("paper")
            row |= {"nearest_id": match.id, "nearest": match.text, "nearest_similarity": match.similarity}
            row["paper"] = paper
        return rows

    def _is_new(self, row: dict) -> bool:
        return not self.unique or not (fold(row["text"]) in self.seen or self.nearest.is_copy(row["text"]))

    def _sample(self, missing: dict[int, int], number: int, round: int) -> dict[int, list[dict]]:
        """Rows for some requests: as many as are missing, ``best_of`` times as many, or one per beam."""
        settings, searching = self.settings, self.settings.beams > 1
        seed = (*settings.seeds, number, round)
        rng = np.random.default_rng(seed)
        # A prompt per text: the request's prefix in one of its tokenizations
        chosen: list[tuple[int, int]] = []
        for request, count in missing.items():
            copies = 1 if searching else count * settings.best_of
            chosen += [(request, i) for i in self._heal(request).sample(copies, settings, rng)]
        prompts = [self._heal(request).candidates[i] for request, i in chosen]
        settings = replace(settings, count=settings.beams if searching else 1, seed=seed)
        rows: dict[int, list[dict]] = {request: [] for request in missing}
        for (request, i), completions in zip(chosen, self.backend.generate(prompts, settings), strict=True):
            rows[request] += [self._row(request, i, completion) for completion in completions]
        if searching:  # other tokens may spell the same text; the first is the likeliest
            return {r: list({row["text"]: row for row in reversed(some)}.values())[::-1] for r, some in rows.items()}
        if settings.best_of > 1:
            return {r: sorted(some, key=lambda row: -row["logprob"]) for r, some in rows.items()}
        return rows

    def _heal(self, number: int) -> TokenHealing:
        if number not in self._healed:
            request, room = self.requests[number], self.backend.context - self.settings.max_tokens
            prefix = self.corpus.clean_prefix(request.prefix)
            self._healed[number] = TokenHealing.of(self.backend, self.corpus, request.prompt, prefix, room)
        return self._healed[number]

    def _row(self, number: int, candidate: int, completion: Completion) -> dict:
        request, healing, layout = self.requests[number], self._heal(number), self.corpus.layout
        ids = healing.candidates[candidate][len(layout.prompt_ids(request.prompt)) :] + completion.ids
        # What the ids spell after the prefix, in bytes, so that no character is cut
        rest = layout.tokenizer.decode_after(self.corpus.clean_prefix(request.prefix), ids)
        rest, stopped = layout.cut_at_stop(rest)
        text, tokens = request.prefix + rest, healing.extends[candidate] + len(completion.ids)
        nats = healing.logprobs[candidate] + completion.logprob * (len(completion.ids) + completion.finished)
        ended = completion.finished or stopped
        return {
            "prefix": request.prefix,
            "prompt": request.prompt,
            "text": text,
            "tokens": tokens,
            "logprob": round(float(nats) / max(1, tokens + completion.finished), 4),
            "finished": bool(ended and text.strip() and is_clean(text, request.prefix)),
            "paper": request.paper,
        }
