"""The text generator: completions that are clean, begin with their prefix to the letter, and are new on request."""

import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from itertools import chain

import numpy as np

from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.clean import fold, join_paragraphs
from titlesmith.corpus.markup import strip
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import Backend, Completion, Listener
from titlesmith.generate.nearest import Nearest
from titlesmith.generate.prompts import Request
from titlesmith.generate.settings import GenerationSettings
from titlesmith.generate.token_healing import TokenHealing

FRAGMENTS = ("<|", "|>", "endoftext", "startoftext", "\ufffd")  # of delimiters, and of characters
ROUNDS = 5  # times that a text is sampled until it is finished and clean
UNIQUE_ROUNDS = 20  # times that a text is sampled until it is new, while each round finds new ones
WIDENINGS = (1, 2, 4, 8)  # factors of the number of beams, until a search finds enough different texts
BLOCK = 128  # texts that are sampled together


def is_clean(text: str, prefix: str = "", markup: str = "strip", breaks: str = "") -> bool:
    """Whether a text, after its prefix, has no artifacts.

    Artifacts are fragments of delimiters, undecodable bytes, control characters other than ``breaks``, outer spaces,
    and, unless ``markup`` is ``keep`` as in the corpus, HTML tags and character references.
    """
    rest = text[len(prefix) :]
    has_fragments = any(text.count(fragment) > prefix.count(fragment) for fragment in FRAGMENTS)
    has_tags = markup == "strip" and strip(text) != strip(prefix) + rest
    has_controls = any(unicodedata.category(c) == "Cc" and c not in breaks for c in rest)
    return not (has_fragments or has_tags or has_controls) and rest == _strip_after(prefix, rest)


def _strip_after(prefix: str, rest: str) -> str:
    """The text after a prefix without outer white space, except one that separates it from the prefix."""
    return rest.rstrip() if prefix and not prefix[-1].isspace() else rest.strip()


def _letters(text: str) -> str:
    """A text without case, white space and punctuation; the text itself if it has nothing else."""
    return "".join(filter(str.isalnum, text.casefold())) or text


class TextGenerator:
    """Generates the rows of texts.jsonl for requests, block by block; iteration yields all rows.

    In a row, ``text`` begins with ``prefix`` to the letter, ``logprob`` is the mean log-probability, in nats, of the
    tokens after the prefix, and ``finished`` is False if the text was unfinished or not clean in every round. A request
    has fewer than ``count`` rows if no more new texts were sampled. RequestError if a text may exceed the context.
    """

    def __init__(
        self,
        backend: Backend,
        corpus: DocumentFormat,
        requests: list[Request],
        settings: GenerationSettings,
        nearest: Nearest | None = None,
    ):
        self.backend, self.corpus, self.requests, self.settings = backend, corpus, requests, settings
        for request in requests:
            size = len(corpus.layout.prompt_ids(request.prompt, corpus.clean_prefix(request.prefix)))
            if size + settings.max_tokens > backend.context:
                longest = shorten(max(request.prefix, request.prompt, key=len))
                raise RequestError(
                    f"generate.max_tokens: {settings.max_tokens} tokens after {longest} ({size} tokens) exceed the "
                    f"model's context of {backend.context} tokens. Lower max_tokens, or shorten the prompt or prefix"
                )
        self.unique = settings.unique or settings.best_of > 1
        self.nearest = nearest or Nearest(corpus)
        self._kept: list[str] = []  # texts of the block that are complete
        self.listener: Callable[[Callable[[], list[str]]], bool] | None = None  # see `_listen`; True ends early
        self.seen: set[str] = set()  # with `unique`, new texts must differ from these, folded
        self._healings: dict[int, TokenHealing] = {}  # by the index of their request
        # A block has the number of texts by the index of their request: several requests, or a part of one
        count = 1 if settings.is_greedy else settings.count
        parts = [(i, min(BLOCK, count - n)) for i in range(len(requests)) for n in range(0, count, BLOCK)]
        size = max(1, BLOCK // count)
        self.blocks = [dict(parts[first : first + size]) for first in range(0, len(parts), size)]

    def __iter__(self) -> Iterator[dict]:
        return chain.from_iterable(map(self.block, range(len(self.blocks))))

    def block(self, number: int) -> list[dict]:
        """The rows of a block by request: finished and clean ones, then unfinished ones of the last round."""
        wanted, best_of = self.blocks[number], self.settings.best_of
        kept: dict[int, list[dict]] = {i: [] for i in wanted}
        spare: dict[int, list[dict]] = {i: [] for i in wanted}
        rounds = UNIQUE_ROUNDS if self.unique else ROUNDS
        if not self.settings.is_sampled:
            rounds = 1 if self.settings.is_greedy else len(WIDENINGS)
        for round in range(rounds):
            missing = {i: count - len(kept[i]) for i, count in wanted.items() if count > len(kept[i])}
            if not missing:
                break
            self._kept = [row["text"] for rows in kept.values() for row in rows]
            progress = False
            for i, rows in self._complete(missing, (self.settings.seed, number, round)).items():
                if best_of > 1:
                    rows.sort(key=lambda row: -row["logprob"])
                if not self.settings.is_sampled:  # beams often differ in punctuation alone
                    different = {_letters(row["text"]): row for row in reversed([*kept[i], *rows])}
                    rows = [row for row in rows if different[_letters(row["text"])] is row]
                spare[i] = [row for row in rows if not row["finished"] and self._is_new(row)]
                for row in rows:
                    if row["finished"] and len(kept[i]) < wanted[i] and self._is_new(row):
                        self.seen.add(fold(row["text"]))
                        kept[i].append(row)
                        progress = True
            if round >= ROUNDS and not progress:
                break
        rows = []
        for i, count in wanted.items():
            rows += [*kept[i], *spare[i]][:count]
        for row, match in zip(rows, self.nearest.find([row["text"] for row in rows]), strict=True):
            row |= match
        return rows

    def _is_new(self, row: dict) -> bool:
        return not self.unique or not (fold(row["text"]) in self.seen or self.nearest.is_copy(row["text"]))

    def _complete(self, missing: dict[int, int], seeds: tuple[int, ...]) -> dict[int, list[dict]]:
        """Rows by request: ``best_of`` samples for each missing text, or the results of one beam search.

        The last of ``seeds`` is the number of the round; each search is wider than the one before.
        """
        settings, rng = replace(self.settings, count=1, seed=seeds), np.random.default_rng(seeds)
        copies = {i: count * settings.best_of for i, count in missing.items()}
        if not settings.is_sampled:
            beams = settings.beams * WIDENINGS[seeds[-1]]
            settings, copies = replace(settings, beams=beams, count=beams), dict.fromkeys(missing, 1)
        # Which candidate for the ids of the prefix each completion continues
        chosen = [(i, which) for i, count in copies.items() for which in self._heal(i).sample(count, settings, rng)]
        prompts = [self._heal(i).opening + self._heal(i).candidates[which] for i, which in chosen]
        rows: dict[int, list[dict]] = {i: [] for i in copies}
        completed = self.backend.generate(prompts, settings, self._listen(chosen) if self.listener else None)
        for (i, which), completions in zip(chosen, completed, strict=True):
            rows[i] += [self._row(i, which, completion) for completion in completions]
        return rows

    def _listen(self, chosen: list[tuple[int, int]]) -> Listener:
        """Collects the ids of completions, and calls ``listener`` with a function that returns their texts so far."""
        begun, end = [[] for _ in chosen], self.corpus.tokenizer.eos_id

        def texts() -> list[str]:
            pairs = zip(chosen, begun, strict=True)
            return self._kept + [self._row(*which, Completion.of(ids, 0.0, end))["text"] for which, ids in pairs]

        def listen(number: int, token: int) -> None:
            begun[number].append(token)
            if self.listener(texts):
                raise CancelledError

        return listen

    def _heal(self, i: int) -> TokenHealing:
        if i not in self._healings:
            request, max_size = self.requests[i], self.backend.context - self.settings.max_tokens
            prefix = self.corpus.clean_prefix(request.prefix)
            self._healings[i] = TokenHealing.of(self.backend, self.corpus, request.prompt, prefix, max_size)
        return self._healings[i]

    def _row(self, i: int, which: int, completion: Completion) -> dict:
        """The row of a completion of the candidate ``which`` for the prefix of request ``i``."""
        request, healing, layout = self.requests[i], self._heal(i), self.corpus.layout
        prefix, begun = self.corpus.clean_prefix(request.prefix), healing.candidates[which]
        # What the ids spell after the prefix, in bytes, so that no character is cut
        rest, stopped = layout.cut_at_stop(layout.completion_tokenizer.decode_after(prefix, begun + completion.ids))
        text = request.prefix + _strip_after(request.prefix, rest)
        if self.corpus.breaks:  # one newline between paragraphs, as in the corpus
            text = join_paragraphs(map(str.strip, text.split("\n")))
        tokens = len(completion.ids) + bool(layout.completion_tokenizer.decode_after(prefix, begun))
        nats = healing.logprobs[which] + completion.logprob * (len(completion.ids) + completion.finished)
        is_good = bool(text.strip()) and is_clean(text, request.prefix, self.corpus.markup, self.corpus.breaks)
        return {
            "prefix": request.prefix,
            "prompt": request.prompt,
            "text": text,
            "tokens": tokens,
            "logprob": round(float(nats) / max(1, tokens + completion.finished), 4),
            "finished": is_good and (completion.finished or stopped),
            "paper": request.paper,
        }
