"""The corpus of a run: its documents, how to build it, and checks of its parameters."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from titlesmith.corpus.clean import clean
from titlesmith.corpus.documents import Documents
from titlesmith.corpus.layout import TokenLayout
from titlesmith.corpus.markup import strip
from titlesmith.corpus.select import check_patterns
from titlesmith.corpus.template import DERIVED, Template, check_fields, template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.harvest import SCHEMA
from titlesmith.hints import install_command
from titlesmith.runs import Run

CUSTOM_FIELDS = ("csv", "alpaca", "rss")  # sources whose papers may have fields other than SCHEMA's


class DocumentFormat:
    """The format of documents, by parameters of the corpus notebook: ``template``, ``tokenizer`` and ``layout``."""

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        delimiters: str = "ids",
        lowercase: bool = False,
        markup: str = "strip",
        paragraphs: str = "join",
    ):
        self.template, self.tokenizer, self.lowercase, self.markup = template, tokenizer, lowercase, markup
        self.breaks = "\n" * (paragraphs == "keep")  # control characters that texts may have
        self.layout = TokenLayout(tokenizer, "chat" if template.chat else delimiters, self.has_prompt)

    @property
    def has_prompt(self) -> bool:
        """Whether documents have a prompt part."""
        return bool(self.template.prompt)

    def clean(self, text: str) -> str:
        """A text, cleaned like the documents."""
        text = strip(text) if self.markup == "strip" else text
        return clean(text).lower() if self.lowercase else clean(text)

    def clean_prefix(self, text: str) -> str:
        """The beginning of a text, cleaned like the documents; one space at its end stays."""
        cleaned = self.clean(text)
        return cleaned + " " * (text[-1:].isspace() and bool(cleaned))


class Corpus(DocumentFormat):
    """A finished corpus; ``info`` is the content of corpus.json, the settings that it was built with and counts."""

    def __init__(self, run: Run):
        run.require("corpus")
        run.verify("corpus")
        self.path: Path = run / "corpus"
        self.info: dict = json.loads((self.path / "corpus.json").read_text("utf-8"))
        options = {key: self.info[key] for key in ("delimiters", "lowercase", "markup", "paragraphs")}
        super().__init__(template(self.info["template"]), Tokenizer.load(self.path), **options)

    def documents(self, name: str, learn_prompt: bool = False) -> Documents:
        """The token ids of a split; with ``learn_prompt``, the loss counts prompts too."""
        documents = Documents.open(self.path / f"{name}.bin", self.tokenizer)
        if learn_prompt:
            documents.targets[:, 0] = len(self.layout.start)
        return documents

    @property
    def counts(self) -> list[dict]:
        """For each split: documents, share, tokens, maximum length, how many were cut or had markup, dates."""
        return [{"split": name} | counts for name, counts in self.info["splits"].items()]

    @property
    def categories(self) -> list[dict]:
        """For the most frequent categories: documents, their share, tokens, documents of each split."""
        return self.info["categories"]

    @property
    def dropped(self) -> list[dict]:
        """Why papers were dropped: ``reason``, ``papers`` (count), ``examples`` (titles)."""
        return [{"reason": reason} | entry for reason, entry in self.info["dropped"].items()]

    def lengths(self, name: str, max_documents: int = 20_000) -> tuple[list[int], list[int]]:
        """Lengths in words and in tokens of a split's documents, evenly spaced if there are more than the maximum."""
        every = -(-self.info["splits"][name]["documents"] // max_documents)
        text = pl.concat_str("prompt", "completion", separator=" ")
        words = self.scan(name).gather_every(every).select(text.str.count_matches(r"\S+")).collect(engine="streaming")
        tokens = np.diff(self.documents(name).starts)[::every] - 1
        return words.to_series().to_list(), tokens.tolist()

    def scan(self, name: str) -> pl.LazyFrame:
        """The texts of a split, ``id prompt completion published``, to read in part."""
        return pl.scan_parquet(self.path / f"{name}.parquet")

    def table(self, name: str) -> pl.DataFrame:
        """All texts of a split, in memory."""
        return self.scan(name).collect()


def check(settings: dict, harvest: dict) -> None:
    """Checks that the parameters of the corpus fit together and to those of the harvest (RequestError)."""
    chosen = template(settings["template"])
    if harvest["source"] not in CUSTOM_FIELDS:
        check_fields(chosen, [*SCHEMA, *DERIVED])
    if harvest["source"] == "alpaca" and settings["order"] == "date":
        raise RequestError("corpus.order: papers of source alpaca have no dates; set it to random")
    if chosen.chat and settings["delimiters"] != "ids":
        raise RequestError("corpus.delimiters: template chat uses the markers of the model; set it to ids")
    if chosen.chat and (not settings["model"].startswith(("hf:", "smollm2")) or settings["model"] == "hf:scratch"):
        raise RequestError(
            f"corpus.template: chat needs a model with a chat template (model: smollm2 or hf:NAME), and "
            f"{shorten(settings['model'])} has none; abstract-to-title and alpaca need none"
        )
    for name in ("drop", "remove"):
        check_patterns(name, settings[name])
    for unit in ("words", "tokens"):
        fewest, most = settings[f"min_{unit}"], settings[f"max_{unit}"]
        if 0 < most < fewest:
            raise RequestError(f"corpus.min_{unit}: {fewest} is more than corpus.max_{unit}, {most}")
    if settings["near_duplicates"] and not find_spec("datasketch"):
        raise RequestError(f"corpus.near_duplicates needs datasketch: {install_command('near')}, or set it to 0")
