"""Nearest: the training text that is most similar to a text."""

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold

LONG = 400  # mean number of characters from which texts are only compared with candidates
CANDIDATES = 200
NUM_HASHES = 2**18  # of words
UNKNOWN = {"nearest_id": None, "nearest": None, "nearest_similarity": None}


class Nearest:
    """Search in the training texts of a corpus.

    Similarity is one minus the normalized insertion-deletion distance of the texts, case and white space folded
    (`rapidfuzz.fuzz.ratio`). Titles are compared with every training text; long texts, for which that takes a thousand
    times as long, with the `CANDIDATES` that share the most words, weighted by inverse document frequency (Spärck Jones
    1972). Without a corpus, the training texts are unknown.
    """

    def __init__(self, corpus: Corpus | None):
        table = corpus.scan("train") if corpus else pl.LazyFrame({"id": [], "completion": []})
        self._table = table.select(nearest_id="id", nearest="completion").collect()
        self._folded = [fold(text) for text in self._table["nearest"]]
        self._known = {hash(text) for text in self._folded}
        self._is_long = sum(map(len, self._folded)) > LONG * len(self._folded)
        if self._is_long:
            from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer  # which takes a second

            options = {"binary": True, "norm": None, "alternate_sign": False, "dtype": np.float32}
            self._hasher = HashingVectorizer(analyzer=str.split, n_features=NUM_HASHES, **options)
            words = TfidfTransformer(norm=None).fit_transform(self._hasher.transform(self._folded))
            self._words = words.T.tocsr()  # shape (NUM_HASHES, texts)

    def is_copy(self, text: str) -> bool:
        """Whether a training text equals this one, case and white space folded."""
        return hash(fold(text)) in self._known

    def find(self, texts: list[str]) -> list[dict]:
        """The most similar training text of each text, the first of equally similar ones, as columns of texts.jsonl."""
        if not self._folded:
            return [UNKNOWN] * len(texts)
        rows = []
        for text in map(fold, texts):
            choices = self._candidates(text) if self._is_long else self._folded
            _, score, row = process.extractOne(text, choices, scorer=fuzz.ratio)
            rows.append(self._table.row(row, named=True) | {"nearest_similarity": round(score / 100, 4)})
        return rows

    def _candidates(self, text: str) -> dict[int, str]:
        """Training texts that share words with a text, by their row."""
        shared = self._hasher.transform([text]) @ self._words
        rows = shared.indices[np.argsort(-shared.data, kind="stable")[:CANDIDATES]].tolist() or [0]
        return {row: self._folded[row] for row in rows}
