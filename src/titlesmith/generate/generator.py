"""The text generator: completions that are clean, begin with their prefix to the letter, and are new on request.

A model reads tokens, and the end of a prefix is rarely the end of a token of the text that continues it. So the last
word of the prefix is sampled again, among all tokenizations that spell it and perhaps more, each with its exact
probability: "N" may be a likely token, and "Neural" may not begin with it (Vieira et al. 2024, From Language Models
over Tokens to Language Models over Characters).
"""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import chain

import numpy as np

from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.clean import fold, join_paragraphs
from titlesmith.corpus.markup import strip
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import Backend, Completion, GenerationSettings, Listener
from titlesmith.generate.nearest import Nearest
from titlesmith.generate.prompts import Request

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


class TokenHealing:
    """A request as ids that a model continues, and the texts of its completions.

    ``opening`` are the ids before the prefix: the end of text and the prompt. ``candidates`` are ids that spell the
    prefix, and perhaps more in the last id, where possible fewer than ``max_size`` with the opening; ``logprobs`` are
    their log-probabilities given the prefix, shape (candidates,).
    """

    def __init__(self, backend: Backend, corpus: DocumentFormat, request: Request, max_size: int):
        self._corpus, self._request = corpus, request
        self._prefix, self._tokenizer = corpus.clean_prefix(request.prefix), corpus.layout.completion_tokenizer
        self.opening = corpus.layout.prompt_ids(request.prompt)
        self.candidates, self.logprobs = [[]], np.zeros(1)
        if not self._prefix:
            return
        # The tokens of all words but the last; and for each way to begin the last word, the ids that may complete it
        head, endings = self._tokenizer.cover_encodings(self._prefix)
        room = max_size - len(self.opening) - len(head)
        endings = {begun: ids for begun, ids in endings.items() if len(begun) < room}
        self.candidates = [[*head, *begun, last] for begun, ids in endings.items() for last in ids]
        # The probability of a candidate is the product of those of its ids after the head
        states = sorted({begun[:size] for begun in endings for size in range(len(begun) + 1)})
        prompts = [self.opening + head + [*begun] for begun in states]
        rows = dict(zip(states, backend.next_token_logprobs(prompts), strict=True))
        logprobs = np.concatenate([
            sum(float(rows[begun[:i]][token]) for i, token in enumerate(begun)) + rows[begun][ids].astype(np.float64)
            for begun, ids in endings.items()
        ])  # fmt: skip
        self.logprobs = logprobs - np.logaddexp.reduce(logprobs)

    def sample(self, count: int, settings: GenerationSettings, rng: np.random.Generator) -> list[int]:
        """Indices of ``count`` candidates, sampled as tokens are; beam search uses the likeliest."""
        order = np.argsort(-self.logprobs, kind="stable")
        if settings.beams > 1 or len(order) == 1:
            return [int(order[0])] * count
        weights = np.exp((self.logprobs[order] - self.logprobs[order[0]]) / settings.temperature)
        weights[settings.top_k or len(order) :] = 0
        weights /= weights.sum()
        weights[np.cumsum(weights) - weights >= settings.top_p] = 0
        return order[rng.choice(len(order), count, p=weights / weights.sum())].tolist()

    def row(self, which: int, completion: Completion) -> dict:
        """The row of texts.jsonl for a completion of the candidate ``which``, see `TextGenerator`."""
        corpus, begun, typed = self._corpus, self.candidates[which], self._request.prefix
        # What the ids spell after the prefix, in bytes, so that no character is cut
        rest = self._tokenizer.decode_after(self._prefix, begun + completion.ids)
        rest, stopped = corpus.layout.cut_at_stop(rest)
        text = typed + _strip_after(typed, rest)
        if corpus.breaks:  # one newline between paragraphs, as in the corpus
            text = join_paragraphs(map(str.strip, text.split("\n")))
        tokens = len(completion.ids) + bool(self._tokenizer.decode_after(self._prefix, begun))
        nats = self.logprobs[which] + completion.logprob * (len(completion.ids) + completion.finished)
        is_good = bool(text.strip()) and is_clean(text, typed, corpus.markup, corpus.breaks)
        return {
            "prefix": typed,
            "prompt": self._request.prompt,
            "text": text,
            "tokens": tokens,
            "logprob": round(float(nats) / max(1, tokens + completion.finished), 4),
            "finished": is_good and (completion.finished or stopped),
            "paper": self._request.paper,
        }


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
        self.backend, self.corpus, self.settings = backend, corpus, settings
        max_size = backend.context - settings.max_tokens
        for request in requests:
            size = len(corpus.layout.prompt_ids(request.prompt, corpus.clean_prefix(request.prefix)))
            if size > max_size:
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
        self._heal = cache(lambda i: TokenHealing(backend, corpus, requests[i], max_size))  # of the request i
        # A block has the number of texts by the index of their request: several requests, or a part of one
        count = settings.count
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
            rounds = 1 if self.settings.beams == 1 else len(WIDENINGS)
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
            rows[i] += [self._heal(i).row(which, completion) for completion in completions]
        return rows

    def _listen(self, chosen: list[tuple[int, int]]) -> Listener:
        """Collects the ids of completions, and calls ``listener`` with a function that returns their texts so far."""
        begun, end = [(*pair, []) for pair in chosen], self.corpus.tokenizer.eos_id

        def texts() -> list[str]:
            rows = [self._heal(i).row(which, Completion.of(ids, 0.0, end)) for i, which, ids in begun]
            return self._kept + [row["text"] for row in rows]

        def listen(number: int, token: int) -> bool:
            begun[number][-1].append(token)
            return self.listener(texts)

        return listen
