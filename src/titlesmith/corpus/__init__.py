"""The corpus: papers cleaned, split, formatted by a template and tokenized, below ``runs/<run>/corpus/``."""

import hashlib
import json
from pathlib import Path

import polars as pl

from titlesmith.corpus.clean import select
from titlesmith.corpus.split import SPLITS, split
from titlesmith.corpus.template import add_fields, template
from titlesmith.corpus.tokens import FILES, Documents, Tokenizer, write
from titlesmith.errors import RequestError
from titlesmith.run import Run, digest, replacing, write_json


class Corpus:
    """A finished corpus, read from its folder.

    Attributes
    ----------
    info
        The content of corpus.json: counts of documents and tokens, template, what was dropped and why.
    tokenizer
        What the ids mean.
    template
        How the documents were formatted.
    """

    def __init__(self, run: Run):
        run.require("corpus")
        self.path: Path = run / "corpus"
        self.info: dict = json.loads((self.path / "corpus.json").read_text("utf-8"))
        self.template = template(self.info["template"])
        self.tokenizer = Tokenizer.load(self.path)

    @property
    def has_prompt(self) -> bool:
        """Whether documents have a prompt part."""
        return bool(self.template.prompt)

    def documents(self, name: str) -> Documents:
        """The token ids of a split."""
        return Documents(self.path / f"{name}.bin", self.tokenizer, self.has_prompt)

    @property
    def counts(self) -> list[dict]:
        """Documents, tokens, longest document and dates of each split."""
        return [{"split": name} | counts for name, counts in self.info["splits"].items()]

    @property
    def dropped(self) -> list[dict]:
        """Why papers were left out: ``reason``, ``papers`` (how many), ``examples``."""
        return [{"reason": reason} | found for reason, found in self.info["dropped"].items()]

    def lengths(self, name: str) -> tuple[list[int], list[int]]:
        """Lengths of a split's documents, in words and in tokens, delimiters aside."""
        table = self.table(name)
        words = [len(f"{row['prompt']} {row['completion']}".split()) for row in table.iter_rows(named=True)]
        return words, [len(document) - 1 for document in self.documents(name)]

    def table(self, name: str) -> pl.DataFrame:
        """The texts of a split: ``id prompt completion published``."""
        return pl.read_parquet(self.path / f"{name}.parquet")


def build(run: Run, settings: dict, vocabulary: Path | None, context: int) -> Corpus:
    """Builds ``corpus/`` from ``papers.parquet``.

    Parameters
    ----------
    run
        Where to read and write.
    settings
        ``template``, ``split`` (three shares), ``order`` (date or random), ``seed``, and ``vocabulary`` (how many
        entries a vocabulary that is learned here has).
    vocabulary
        The folder of a model whose encoder.json and vocab.bpe to use; None to learn a vocabulary from train.
    context
        The longest row that the model reads; documents that do not fit, an end of text on each side, are dropped.

    Raises
    ------
    RequestError
        A split is left empty.
    """
    chosen, folder = template(settings["template"]), run / "corpus"
    papers = add_fields(pl.read_parquet(run / "papers.parquet"))
    kept, dropped = select(papers, chosen.fields, settings["order"] == "date")
    cut = split(kept, settings["split"], settings["order"], settings["seed"])
    tables = {name: chosen.format(rows) for name, rows in cut.items()}
    if vocabulary:
        tokenizer = Tokenizer.load(vocabulary)
    else:
        # From train alone: valid and test stay unseen.
        train = tables["train"].select(pl.concat_str("prompt", pl.lit("\n"), "completion")).to_series()
        tokenizer = Tokenizer.learn(train.str.strip_chars_start("\n"), settings["vocabulary"])
    tokenizer.save(folder)
    counts, reason = {}, f"longer than the model's context of {context} tokens"
    dropped[reason] = {"papers": 0, "examples": []}
    for name in SPLITS:
        documents = tokenizer.encode_batch(tables[name]["completion"].to_list())
        if chosen.prompt:
            prompts = tokenizer.encode_batch(tables[name]["prompt"].to_list())
            documents = [[*p, tokenizer.newline, *c] for p, c in zip(prompts, documents, strict=True)]
        fits = [len(ids) < context for ids in documents]
        if not all(fits):
            dropped[reason]["papers"] += fits.count(False)
            tables[name], documents = (
                tables[name].filter(fits),
                [d for d, fit in zip(documents, fits, strict=True) if fit],
            )
        if not documents:
            raise RequestError(f"corpus.template: no document of {name} fits the model's context of {context} tokens")
        write(folder / f"{name}.bin", documents, tokenizer)
        with replacing(folder / f"{name}.parquet") as temporary:
            tables[name].write_parquet(temporary)
        counts[name] = {
            "documents": len(documents),
            "tokens": sum(map(len, documents)),  # of text; delimiters are not counted
            "longest": max(map(len, documents)),
            "first": str(tables[name]["published"].min()),
            "last": str(tables[name]["published"].max()),
        }
    fingerprint = hashlib.sha256("".join(digest(folder / name) for name in FILES).encode()).hexdigest()
    write_json(
        folder / "corpus.json",
        {
            "template": settings["template"],
            "papers": papers.height,
            "dropped": dropped,
            "splits": counts,
            "vocabulary": len(tokenizer),
            "tokenizer": fingerprint,
        },
    )
    run.finish("corpus")
    return Corpus(run)
