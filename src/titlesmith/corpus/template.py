"""Templates: the text of a document, a prompt and a completion with the paper's fields in braces."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean

ARROW = " -> "  # between the parts of a template that is written in the experiment
PIECE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[^{}]+")


@dataclass(frozen=True)
class Template:
    """A prompt part and a completion part; the model learns the completion, given the prompt.

    A completion is one line. With ``chat``, the prompt is a question in the model's chat template, and the completion
    the answer.
    """

    prompt: str
    completion: str
    chat: bool = False

    @property
    def prompt_fields(self) -> list[str]:
        """The fields in the prompt, in order of appearance."""
        return _fields(self.prompt)

    @property
    def required_fields(self) -> list[str]:
        """The fields in the prompt that have no default."""
        return [name for name in self.prompt_fields if name not in DEFAULTS]

    @property
    def completion_fields(self) -> list[str]:
        """The fields in the completion, in order of appearance."""
        return _fields(self.completion)

    @property
    def fields(self) -> list[str]:
        """The fields in both parts, in order of appearance."""
        return list(dict.fromkeys([*self.prompt_fields, *self.completion_fields]))

    def columns(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.Expr]:
        """Expressions of the fields, by their names in braces, for papers of a schema (RequestError if one lacks)."""
        derived = {name: expression for name, expression in DERIVED.items() if name not in schema}
        check_fields(self, [*schema, *derived])
        return {f"{{{name}}}": derived.get(name, _text(name, schema.get(name))) for name in self.fields}

    def format(self, papers: pl.DataFrame) -> pl.DataFrame:
        """Papers with their documents: columns ``prompt`` and ``completion`` next to those of `columns`."""
        return papers.with_columns(prompt=_format(self.prompt), completion=_format(self.completion))

    def fill_prompt(self, fields: Mapping[str, str]) -> str:
        """The prompt with its fields replaced by these texts, or by `DEFAULTS`."""
        fields = DEFAULTS | dict(fields)
        return "".join(text if name is None else fields[name] for text, name in pieces(self.prompt))

    def read(self, prompt: str) -> dict[str, str]:
        """The fields of a prompt of this template, each as short as possible."""
        parts = pieces(self.prompt)
        pattern = "".join(re.escape(text) if name is None else "(.*?)" for text, name in parts)
        texts = re.fullmatch(pattern, prompt, re.DOTALL).groups()
        return dict(zip((name for _, name in parts if name is not None), texts, strict=True))


# The prompt of Stanford Alpaca (Taori et al. 2023) and alpaca-lora; a newline is after it
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{abstract}\n\n### Response:"
)
# Fields of papers that have none, or an empty one: ChatGenTitle's instruction
DEFAULTS = {
    "instruction": "If you are an expert in writing papers, please generate a good paper title for this paper based on "
    "other authors' descriptions of their abstracts."
}
TEMPLATES = {
    "title": Template("", "{title}"),
    "year-title": Template("{year}", "{title}"),
    "title-to-abstract": Template("{title}", "{abstract}"),
    "category-title-to-abstract": Template("<|{category}|> {title}", "{abstract}"),
    "abstract-to-title": Template(
        "Below is the abstract of a scientific paper. Write its title.\n\nAbstract: {abstract}\n\nTitle:", "{title}"
    ),
    "alpaca": Template(ALPACA.replace("{instruction}", "Give this paper a title, from its abstract."), "{title}"),
    "chatgentitle": Template(ALPACA, "{title}"),
    "chat": Template("Give this paper a title, from its abstract.\n\n{abstract}", "{title}", chat=True),
}
DERIVED = {
    "year": pl.col("published").dt.year(),
    "category": pl.col("primary_category"),
    "subject": pl.col("primary_category").str.split(".").list.last(),  # CL of cs.CL
    **{name: pl.lit(text) for name, text in DEFAULTS.items()},
}


def template(name: str) -> Template:
    """The template with this name, or written in full: ``{title} -> {abstract}``, or a completion (RequestError)."""
    if "{" not in name:
        if name not in TEMPLATES:
            raise RequestError(
                f"corpus.template: there is no template {shorten(name)}; there are {', '.join(TEMPLATES)}, and "
                f"templates with fields in braces, such as {{title}}{ARROW}{{abstract}}.{did_you_mean(name, TEMPLATES)}"
            )
        return TEMPLATES[name]
    written = Template(*(name.rpartition(ARROW)[::2]))
    try:
        learned = written.fields and written.completion_fields
    except ValueError as error:
        raise RequestError(f"corpus.template: {shorten(name)}: {error}") from None
    if not learned or "\n" in written.completion:
        raise RequestError(
            f"corpus.template: {shorten(name)}: the completion, after the last {ARROW!r}, must be one line with at "
            "least one field in braces"
        )
    return written


def check_fields(chosen: Template, names: list[str]) -> None:
    """Checks that the fields of a template are among ``names`` (RequestError with the nearest one)."""
    for field in chosen.fields:
        if field not in names:
            raise RequestError(
                f"corpus.template: papers have no field {shorten(field)}.{did_you_mean(field, names)} There are: "
                f"{', '.join(sorted(names))}"
            )


def pieces(part: str) -> list[tuple[str, str | None]]:
    """A part of a template as ``(text, None)`` and ``("", field)``; doubled braces are braces of the text.

    Any name of a column is a field: unlike in `str.format`, dots, brackets, colons and digits mean nothing in it. A
    single brace and a field without a name are a ValueError.
    """
    matches = list(PIECE.finditer(part))
    if sum(len(match[0]) for match in matches) < len(part):
        raise ValueError("a field is a name in braces; double a brace of the text")
    texts = {"{{": "{", "}}": "}"}
    return [("", match[1]) if match[1] else (texts.get(match[0], match[0]), None) for match in matches]


def _fields(part: str) -> list[str]:
    return list(dict.fromkeys(name for _, name in pieces(part) if name is not None))


def _text(name: str, kind: pl.DataType | None) -> pl.Expr:
    text = pl.col(name).list.join(", ") if isinstance(kind, pl.List) else pl.col(name)
    return pl.when(text.str.contains(r"\S")).then(text).otherwise(pl.lit(DEFAULTS[name])) if name in DEFAULTS else text


def _format(part: str) -> pl.Expr:
    filled = [pl.lit(text) if name is None else pl.col(f"{{{name}}}") for text, name in pieces(part)]
    return pl.concat_str(filled or [pl.lit("")])
