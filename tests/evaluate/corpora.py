"""Corpora of a few texts, as what is measured on them reads them."""

import polars as pl


class Corpus:
    """The texts of splits; without a prompt where ``prompts`` is left out."""

    def __init__(self, train: list[str], prompts: list[str] | None = None):
        self.table = pl.DataFrame(
            {"id": [f"p{i}" for i in range(len(train))], "completion": train, "prompt": prompts or [""] * len(train)},
            {"id": pl.String, "completion": pl.String, "prompt": pl.String},
        )

    def scan(self, name: str) -> pl.LazyFrame:
        assert name == "train"
        return self.table.lazy()
