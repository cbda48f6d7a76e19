"""A finished corpus, what builds one, and what is checked before."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from titlesmith.corpus import building
from titlesmith.corpus.clean import clean
from titlesmith.corpus.documents import Documents
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.markup import strip
from titlesmith.corpus.select import check_patterns
from titlesmith.corpus.split import SPLITS
from titlesmith.corpus.template import DERIVED, Template, check_fields, template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.harvest import SCHEMA
from titlesmith.runs import Run

__all__ = ["SPLITS", "Corpus", "DocumentFormat", "build", "check"]
FREE = ("csv", "alpaca", "rss")  # sources that may bring fields of their own


class DocumentFormat:
    """What documents look like, in text and in ids.

    Attributes
    ----------
    template
        How they are formatted.
    tokenizer
        What their ids mean.
    layout
        How they stand in ids.
    lowercase
        Whether they are in lower case.
    markup
        ``strip`` where they have no tags and character references, or ``keep``.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        delimiters: str = "ids",
        lowercase: bool = False,
        markup: str = "strip",
    ):
        self.template, self.tokenizer, self.lowercase, self.markup = template, tokenizer, lowercase, markup
        self.layout = TokenLayout(tokenizer, "chat" if template.chat else delimiters, self.has_prompt)

    @property
    def has_prompt(self) -> bool:
        """Whether documents have a prompt part."""
        return bool(self.template.prompt)

    def clean(self, text: str) -> str:
        """A text as a document of this corpus has it."""
        text = strip(text) if self.markup == "strip" else text
        return clean(text).lower() if self.lowercase else clean(text)

    def clean_prefix(self, text: str) -> str:
        """The beginning of a text as a document of this corpus has it; a space at its end is kept."""
        cleaned = self.clean(text)
        return cleaned + " " * (text[-1:].isspace() and bool(cleaned))


class Corpus(DocumentFormat):
    """A finished corpus, read from its folder.

    Attributes
    ----------
    info
        The content of corpus.json: counts of documents and tokens, template, what was dropped and why.
    """

    def __init__(self, run: Run):
        run.require("corpus")
        run.verify("corpus")
        self.path: Path = run / "corpus"
        self.info: dict = json.loads((self.path / "corpus.json").read_text("utf-8"))
        settings = run.record("corpus").get("settings", {})
        texts = {key: settings[key] for key in ("lowercase", "markup") if key in settings}
        super().__init__(template(self.info["template"]), Tokenizer.load(self.path), self.info["delimiters"], **texts)

    def documents(self, name: str, learn_prompt: bool = False) -> Documents:
        """The token ids of a split; ``learn_prompt``: the loss counts the prompts' too."""
        context = self.info["context"] if self.info["too_long"] == "cut" else 0
        has_prompt = self.has_prompt and not learn_prompt
        return Documents(self.path / f"{name}.bin", self.tokenizer, has_prompt, self.layout.separator, context)

    @property
    def counts(self) -> list[dict]:
        """Each split: documents, their share, tokens, ids of the longest, how many were cut or had markup, dates."""
        return [{"split": name} | counts for name, counts in self.info["splits"].items()]

    @property
    def categories(self) -> list[dict]:
        """Each of the most frequent categories: documents, share, tokens of text, documents by split."""
        return self.info["categories"]

    @property
    def dropped(self) -> list[dict]:
        """Why papers were left out: ``reason``, ``papers`` (how many), ``examples``."""
        return [{"reason": reason} | found for reason, found in self.info["dropped"].items()]

    def lengths(self, name: str, most: int = 20_000) -> tuple[list[int], list[int]]:
        """Lengths in words and in ids of a split's documents, at most so many, evenly spread."""
        every = -(-self.info["splits"][name]["documents"] // most)
        text = pl.concat_str("prompt", "completion", separator=" ")
        words = self.scan(name).gather_every(every).select(text.str.count_matches(r"\S+")).collect(engine="streaming")
        ids = np.diff(self.documents(name).starts.astype(np.int64))[::every] - 1
        return words.to_series().to_list(), ids.tolist()

    def scan(self, name: str) -> pl.LazyFrame:
        """The texts of a split, ``id prompt completion published``, to be read in part."""
        return pl.scan_parquet(self.path / f"{name}.parquet")

    def table(self, name: str) -> pl.DataFrame:
        """The texts of a split, all of them in memory."""
        return self.scan(name).collect()


def build(run: Run, settings: dict, vocabulary: Path | None, context: int) -> Corpus:
    """Builds ``corpus/`` from ``papers.parquet`` (`titlesmith.corpus.building`) and reads it."""
    building.build(run, settings, vocabulary, context)
    run.finish("corpus")
    return Corpus(run)


def check(settings: dict, harvest: dict) -> None:
    """Checks, before anything runs, what the parameters of the corpus must fulfil together (RequestError).

    Parameters
    ----------
    settings
        The parameters of the corpus notebook.
    harvest
        Those of the harvest notebook, which say what fields papers have. A source that may bring fields of its own is
        checked when its papers are there.
    """
    chosen = template(settings["template"])
    if harvest["source"] not in FREE:
        check_fields(chosen, [*SCHEMA, *DERIVED])
    if harvest["source"] == "alpaca" and settings["order"] == "date":
        raise RequestError("corpus.order: papers of source alpaca have no dates; set it to random")
    if chosen.chat and settings["delimiters"] != "ids":
        raise RequestError("corpus.delimiters: template chat has the markers of the model's own; set it to ids")
    if chosen.chat and (not settings["model"].startswith("hf:") or settings["model"] == "hf:scratch"):
        raise RequestError(
            f"corpus.template: chat needs a model with a chat template of its own (model: hf:NAME), and "
            f"{settings['model']} has none; abstract-to-title and alpaca need none"
        )
    check_patterns(settings["drop"])
    for unit in ("words", "tokens"):
        fewest, most = settings[f"min_{unit}"], settings[f"max_{unit}"]
        if 0 < most < fewest:
            raise RequestError(f"corpus.min_{unit}: {fewest} is more than corpus.max_{unit}, {most}")
    if settings["near_duplicates"] and not find_spec("datasketch"):
        raise RequestError("corpus.near_duplicates needs datasketch: pip install 'titlesmith[near]', or set it to 0")
