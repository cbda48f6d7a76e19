"""Requests: the prompts and prefixes that a model completes."""

import unicodedata
from dataclasses import dataclass

import numpy as np

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import Template
from titlesmith.errors import RequestError, shorten
from titlesmith.generate.settings import GenerationSettings


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


def requests(corpus: DocumentFormat, settings: dict) -> list[Request]:
    """Each prompt with each prefix.

    Parameters
    ----------
    corpus
        Its template has the form of prompts, and its test split the held-out papers.
    settings
        Parameters of notebook 04: ``prefixes``, and where the template has a prompt, ``prompts`` (fields by name) and
        ``held_out`` (the number of papers of the test split). Default: one empty prefix, no prompts.

    Raises
    ------
    RequestError
        The template takes other fields, or no prompt.
    """
    settings = {"prefixes": [""], "prompts": [], "held_out": 0} | settings
    check(corpus.template, settings)
    prompts = [("", None)]
    if corpus.has_prompt:
        given = ({name: corpus.clean(text) for name, text in fields.items()} for fields in settings["prompts"])
        prompts = [(corpus.template.fill_prompt(fields), None) for fields in given]
        prompts += held_out(corpus, settings["held_out"], GenerationSettings.of(settings).max_tokens)
    return [Request(prompt, prefix, paper) for prompt, paper in prompts for prefix in settings["prefixes"]]


def held_out(corpus: Corpus, count: int, tokens: int) -> list[tuple[str, str]]:
    """Prompts and ids of ``count`` test papers, evenly spread among those whose prompts leave room for ``tokens``."""
    if not count:
        return []
    table = corpus.scan("test").select("prompt", "id").collect()
    sizes = np.array(list(map(len, corpus.tokenizer.encode_batch(table["prompt"].to_list()))))
    room = corpus.info["context"] - tokens - len(corpus.layout.prompt_ids(""))
    fitting = np.flatnonzero(sizes <= room)
    if not len(fitting):
        raise RequestError(
            f"generate.max_tokens: no test paper has a prompt that leaves room for {tokens} tokens in the model's "
            f"context of {corpus.info['context']}; the shortest prompt has {sizes.min()}. Lower max_tokens"
        )
    return table[fitting[np.arange(min(count, len(fitting))) * len(fitting) // min(count, len(fitting))]].rows()


def check(template: Template, settings: dict) -> None:
    """Checks prompts against the template, and settings against one another (RequestError)."""
    takes = template.prompt_fields
    for fields in settings["prompts"]:
        if not takes:
            raise RequestError(
                f"generate.prompts: the template {shorten(template.completion)} takes no prompt; use prefixes"
            )
        if set(fields) != set(takes):
            raise RequestError(
                f"generate.prompts: the prompt is {shorten(template.prompt)} and takes {', '.join(takes)}; "
                f"given is {', '.join(shorten(name)[1:-1] for name in fields) or 'nothing'}"
            )
    if takes and not settings["prompts"] and not settings["held_out"]:
        raise RequestError(
            f"generate.held_out: there is nothing to complete: the template takes {', '.join(takes)}. Set prompts, or "
            "held_out above 0 for those of test papers"
        )
    GenerationSettings.of(settings)


def plain(text: str) -> str:
    """A prefix in one line: each control character and white space becomes a space.

    Raises
    ------
    RequestError
        It is not valid text: a terminal or file has another encoding than UTF-8.
    """
    if any("\ud800" <= c <= "\udfff" for c in text):
        said = shorten(text).replace(r"\udc", r"\x")  # how Python represents bytes that are not UTF-8
        raise RequestError(f"{said} is not valid UTF-8: type it in a terminal, or save the file, in UTF-8")
    return "".join(" " if c.isspace() or unicodedata.category(c) == "Cc" else c for c in text)
