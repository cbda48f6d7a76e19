"""Corpora of a few texts, and a model that knows nothing, as metrics read them."""

import math

import polars as pl

from titlesmith.train import Engine


class Corpus:
    """The texts of splits; by default without prompts."""

    def __init__(self, train: list[str], prompts: list[str] | None = None):
        self.table = pl.DataFrame(
            {"id": [f"p{i}" for i in range(len(train))], "completion": train, "prompt": prompts or [""] * len(train)},
            {"id": pl.String, "completion": pl.String, "prompt": pl.String},
        )

    def scan(self, name: str) -> pl.LazyFrame:
        assert name == "train"
        return self.table.lazy()


class Uniform:
    """A model to which all tokens are equally likely."""

    document_losses, mean_loss, max_tokens = Engine.document_losses, Engine.mean_loss, Engine.max_tokens
    context = 256

    def __init__(self, corpus):
        self.tokenizer = corpus.tokenizer

    def losses(self, ids, learned):
        return learned.sum(axis=1) * math.log(len(self.tokenizer))
