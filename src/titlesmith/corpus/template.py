"""Templates: how a paper becomes a document, a prompt part and a completion part with the paper's fields in braces."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter

import polars as pl

from titlesmith.errors import RequestError

ARROW = " -> "  # between the parts of a template that is written in the experiment


@dataclass(frozen=True)
class Template:
    """A prompt part and a completion part; the model learns the completion, given the prompt.

    A completion is one line, so that the last newline of a document is the one between its two parts. ``chat``: the
    prompt is a question in the model's own chat template, and the completion the answer.
    """

    prompt: str
    completion: str
    chat: bool = False

    @property
    def fields(self) -> list[str]:
        """The fields of the paper in both parts, in the order in which they appear."""
        return list(dict.fromkeys(name for part in (self.prompt, self.completion) for name in _fields(part)))

    @property
    def texts(self) -> list[str]:
        """What must not stand in two documents: title and abstract where they are used, else the completion."""
        return [f"{{{name}}}" for name in self.fields if name in ("title", "abstract")] or ["completion"]

    def columns(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.Expr]:
        """How papers of this schema give the fields, by the names in braces that `format` reads.

        Raises
        ------
        RequestError
            There is no such field.
        """
        derived = {name: expression for name, expression in DERIVED.items() if name not in schema}
        check_fields(self, [*schema, *derived])
        return {f"{{{name}}}": derived.get(name, _text(name, schema.get(name))) for name in self.fields}

    def format(self, papers: pl.DataFrame) -> pl.DataFrame:
        """Papers with their documents: columns ``prompt`` and ``completion`` beside the fields of `columns`."""
        return papers.with_columns(prompt=_format(self.prompt), completion=_format(self.completion))

    def read(self, prompt: str) -> dict[str, str]:
        """The fields that a prompt was made of; where there are several ways, each is as short as it can be.

        Raises
        ------
        ValueError
            It is no prompt of this template.
        """
        pattern, names = "", []
        for text, name, _, _ in Formatter().parse(self.prompt):
            pattern += re.escape(text)
            if name in names:
                pattern += f"(?:\\{names.index(name) + 1})"
            elif name:
                pattern, names = pattern + "(.*?)", [*names, name]
        if not (found := re.fullmatch(pattern, prompt, re.DOTALL)):
            raise ValueError(f"{prompt!r} is no prompt of {self.prompt!r}")
        return dict(zip(names, found.groups(), strict=True))


TEMPLATES = {
    "title": Template("", "{title}"),
    "year-title": Template("{year}", "{title}"),
    "title-to-abstract": Template("{title}", "{abstract}"),
    "category-title-to-abstract": Template("<|{category}|> {title}", "{abstract}"),
    "abstract-to-title": Template(
        "Below is the abstract of a scientific paper. Write its title.\n\nAbstract: {abstract}\n\nTitle:", "{title}"
    ),
    # The form of Stanford Alpaca's prompts (Taori et al. 2023), which alpaca-lora and ChatGenTitle train with
    "alpaca": Template(
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGive this paper a title, from its abstract.\n\n"
        "### Input:\n{abstract}\n\n### Response:",
        "{title}",
    ),
    "chat": Template("Give this paper a title, from its abstract.\n\n{abstract}", "{title}", chat=True),
}
DERIVED = {"year": pl.col("published").dt.year(), "category": pl.col("primary_category")}


def template(name: str) -> Template:
    """The template of this name, or the one that is written out: ``{title} -> {abstract}``, or a completion alone.

    Raises
    ------
    RequestError
        There is none of this name, or what is written is no template.
    """
    if "{" not in name:
        if name not in TEMPLATES:
            near = get_close_matches(name, TEMPLATES, 1, 0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise RequestError(
                f"corpus.template: there is no template {name!r}; there are {', '.join(TEMPLATES)}, and ones with "
                f"fields in braces, such as {{title}}{ARROW}{{abstract}}.{hint}"
            )
        return TEMPLATES[name]
    written = Template(*(name.rpartition(ARROW)[::2]))
    try:
        plain = all(not (spec or kind) for part in (written.prompt, written.completion)
                    for _, field, spec, kind in Formatter().parse(part) if field is not None)  # fmt: skip
    except ValueError as error:
        raise RequestError(f"corpus.template: {name!r}: {error}") from None
    if not plain or "" in written.fields or not _fields(written.completion) or "\n" in written.completion:
        raise RequestError(
            f"corpus.template: {name!r}: fields stand in braces by their names alone, and the completion, behind the "
            f"last {ARROW!r}, is one line with a field at least"
        )
    return written


def check_fields(chosen: Template, names: list[str]) -> None:
    """Checks that the fields of a template are among ``names`` (RequestError with the nearest one)."""
    for field in chosen.fields:
        if field not in names:
            near = get_close_matches(field, names, 1, 0.5)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise RequestError(
                f"corpus.template: papers have no field {field!r}. {hint}There are: {', '.join(sorted(names))}"
            )


def _fields(part: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(part) if name is not None]


def _text(name: str, kind: pl.DataType | None) -> pl.Expr:
    return pl.col(name).list.join(", ") if isinstance(kind, pl.List) else pl.col(name)


def _format(part: str) -> pl.Expr:
    pieces: list[pl.Expr] = []
    for text, name, _, _ in Formatter().parse(part):
        pieces += [pl.lit(text), pl.col(f"{{{name}}}")] if name else [pl.lit(text)]
    return pl.concat_str(pieces or [pl.lit("")])
