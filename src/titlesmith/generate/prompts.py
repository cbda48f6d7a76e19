"""Requests: the prompts and prefixes that a model completes, and how many training texts contain a prefix."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import polars as pl
from rapidfuzz.distance import JaroWinkler

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import Template
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.backend import GenerationSettings

RARE, RARE_SHARE = 20, 0.01  # a prefix is rare if fewer texts, and a smaller share of them, begin with it
MAX_NEAR = 5  # words
MIN_SIMILARITY = 0.83  # of near words, 0 to 1
WORD = r"[\p{L}\p{N}]+"


@dataclass(frozen=True)
class Request:
    """A completion's ``prompt`` and `plain` beginning, ``prefix``; and the id of the paper whose prompt it is."""

    prompt: str = ""
    prefix: str = ""
    paper: str | None = None


def requests(corpus: DocumentFormat, settings: dict) -> list[Request]:
    """Each prompt with each prefix (RequestError if the template needs other fields, or has no prompt).

    ``settings`` are parameters of notebook 04: ``prefixes``, and for templates with a prompt, ``prompts`` (fields by
    name) and ``held_out`` (the number of papers of the test split).
    """
    check(corpus.template, settings)
    prompts = [("", None)]
    if corpus.has_prompt:
        cleaned = ({name: corpus.clean(text) for name, text in fields.items()} for fields in settings["prompts"])
        prompts = [(corpus.template.fill_prompt(fields), None) for fields in cleaned]
        prompts += held_out(corpus, settings["held_out"], settings["max_tokens"])
    prefixes = list(map(plain, settings["prefixes"]))
    return [Request(prompt, prefix, paper) for prompt, paper in prompts for prefix in prefixes]


def held_out(corpus: Corpus, count: int, max_tokens: int) -> list[tuple[str, str]]:
    """Prompts and ids of ``count`` test papers, evenly spaced among those whose prompts leave ``max_tokens``."""
    if not count:
        return []
    table = corpus.scan("test").select("prompt", "id").collect()
    sizes = np.array(list(map(len, corpus.tokenizer.encode_batch(table["prompt"].to_list()))))
    fitting = np.flatnonzero(sizes <= corpus.info["context"] - max_tokens - len(corpus.layout.prompt_ids("")))
    if not len(fitting):
        raise RequestError(
            f"generate.max_tokens: no test paper has a prompt that leaves room for {max_tokens} tokens in the model's "
            f"context of {corpus.info['context']}; the shortest prompt has {sizes.min()}. Lower max_tokens"
        )
    count = min(count, len(fitting))
    return table[fitting[np.arange(count) * len(fitting) // count]].rows()


def check(template: Template, settings: dict) -> None:
    """Checks prompts against the template, and settings against one another (RequestError)."""
    needed = ", ".join(template.required_fields)
    if settings["prompts"] and not template.prompt_fields:
        raise RequestError(f"generate.prompts: the template {shorten(template.completion)} has no prompt; use prefixes")
    for fields in settings["prompts"]:
        if not set(fields) >= set(template.required_fields):
            given = ", ".join(shorten(name)[1:-1] for name in fields) or "nothing"
            raise RequestError(f"generate.prompts: the template's prompt needs {needed}; given is {given}")
    if template.prompt_fields and not settings["prompts"] and not settings["held_out"]:
        raise RequestError(
            f"generate.held_out: there is nothing to complete: the template needs {needed}. Set prompts, or held_out "
            "above 0 for those of test papers"
        )
    GenerationSettings.of(settings)


def plain(text: str) -> str:
    """A prefix in one line: control characters and white space become spaces (RequestError if it is not UTF-8)."""
    if any("\ud800" <= c <= "\udfff" for c in text):  # how Python represents bytes that are not UTF-8
        shown = shorten(text).replace(r"\udc", r"\x")
        raise RequestError(f"{shown} is not valid UTF-8: type it in a terminal, or save the file, in UTF-8")
    return "".join(" " if c.isspace() or unicodedata.category(c) == "Cc" else c for c in text)


@dataclass(frozen=True)
class Relevance:
    """What the training texts say about a prefix, ignoring case; a row of a table."""

    prefix: str
    begins: int  #: Training texts that begin with the prefix, perhaps in the middle of a word.
    holds: int  #: Training texts that have all its words, in any order.
    of: int  #: All training texts.
    near: list[str]  #: For a rare prefix: frequent words that are like its own, with counts.

    def __str__(self) -> str:
        shown = self.prefix if len(self.prefix) <= 40 else f"{self.prefix[:40]}..."
        text = f"{shown}: {self.begins:,} of {self.of:,} training texts begin with it, {self.holds:,} have its words"
        return f"{text}; similar frequent words: {', '.join(self.near)}" if self.near else text


def relevance(corpus: Corpus, prefixes: list[str]) -> list[Relevance]:
    """The relevance of each prefix but empty ones."""
    texts = corpus.scan("train").select(text=pl.col("completion").str.to_lowercase())
    rows = []
    for prefix in dict.fromkeys(map(plain, prefixes)):
        beginning = corpus.clean_prefix(prefix).lower()
        if not beginning:
            continue
        words = list(dict.fromkeys(pl.Series([beginning]).str.extract_all(WORD)[0]))
        patterns = [pl.col("text").str.contains(rf"\b{word}\b") for word in words]
        patterns = patterns or [pl.col("text").str.contains(beginning.strip(), literal=True)]  # it has signs alone
        counts = {"begins": pl.col("text").str.starts_with(beginning).sum(), "holds": pl.all_horizontal(patterns).sum()}
        total, begins, holds = texts.select(pl.len(), **counts).collect(engine="streaming").row(0)
        is_rare = begins < min(RARE, RARE_SHARE * total)
        rows.append(Relevance(prefix, begins, holds, total, _near_words(texts, words) if is_rare else []))
    return rows


def _near_words(texts: pl.LazyFrame, words: list[str]) -> list[str]:
    """Words in at least `RARE` texts that are like one of ``words``, most frequent first, with counts."""
    found = texts.select(word=pl.col("text").str.extract_all(WORD).list.unique()).explode("word").drop_nulls()
    counts = found.group_by("word").len().filter(pl.col("len") >= RARE).collect(engine="streaming")
    near = [
        f"{word} ({count:,})"
        for word, count in counts.sort("len", "word", descending=[True, False]).iter_rows()
        if word not in words and any(JaroWinkler.similarity(word, own) >= MIN_SIMILARITY for own in words)
    ]
    return near[:MAX_NEAR]
