"""Templates: how a paper becomes a document, a prompt part and a completion part with the paper's fields in braces."""

from dataclasses import dataclass
from string import Formatter

import polars as pl

from titlesmith.errors import RequestError


@dataclass(frozen=True)
class Template:
    """A prompt part and a completion part; the model learns the completion, given the prompt.

    A completion is one line, so that the last newline of a document is the one between its two parts.
    """

    prompt: str
    completion: str

    @property
    def fields(self) -> list[str]:
        """The fields of the paper in both parts, in the order in which they appear."""
        return list(dict.fromkeys(name for part in (self.prompt, self.completion) for name in _fields(part)))

    def format(self, papers: pl.DataFrame) -> pl.DataFrame:
        """Documents of papers: columns ``id prompt completion published``."""
        parts = {"prompt": self.prompt, "completion": self.completion}
        return papers.select("id", **{k: _format(part) for k, part in parts.items()}, published="published")


TEMPLATES = {
    "title": Template("", "{title}"),
    "year-title": Template("{year}", "{title}"),
    "title-to-abstract": Template("{title}", "{abstract}"),
    "category-title-to-abstract": Template("<|{category}|> {title}", "{abstract}"),
    "abstract-to-title": Template(
        "Below is the abstract of a scientific paper. Write its title.\n\nAbstract: {abstract}\n\nTitle:", "{title}"
    ),
}
DERIVED = {"year": pl.col("published").dt.year().cast(pl.String), "category": pl.col("primary_category")}


def template(name: str) -> Template:
    """The template of this name (RequestError where there is none)."""
    if name not in TEMPLATES:
        raise RequestError(f"corpus.template: there is no template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def add_fields(papers: pl.DataFrame) -> pl.DataFrame:
    """Adds the fields that templates may use beside the columns: ``year`` of publication and primary ``category``."""
    return papers.with_columns(**DERIVED)


def _fields(part: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(part) if name]


def _format(part: str) -> pl.Expr:
    pieces: list[pl.Expr] = []
    for text, name, _, _ in Formatter().parse(part):
        pieces += [pl.lit(text), pl.col(name)] if name else [pl.lit(text)]
    return pl.concat_str(pieces or [pl.lit("")])
