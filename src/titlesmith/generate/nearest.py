"""Nearest: the training text that is most similar to a text."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process
from scipy.sparse import csr_array, diags_array

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold

CHUNK = 65_536  # training texts that are compared at once
LONG = 400  # mean characters of texts that are only compared with candidates
CANDIDATES = 50
COLUMNS = 2**18  # hashes of words


@dataclass(frozen=True)
class Match:
    """A training text: its ``id``, ``text`` and ``similarity``, 1 for a copy. None where training texts are unknown."""

    id: str | None
    text: str | None
    similarity: float | None


class Unknown:
    """`Nearest` of a model whose training texts are unknown."""

    def is_copy(self, text: str) -> bool:
        """False."""
        return False

    def find(self, texts: list[str]) -> list[Match]:
        """Empty matches."""
        return [Match(None, None, None)] * len(texts)


class Nearest:
    """Training texts, to be searched.

    Similarity is one minus the normalized insertion-deletion distance of the texts, case and white space folded
    (`rapidfuzz.fuzz.ratio`). Titles are compared with every training text. For abstracts, which takes a thousand times
    as long, each is compared with the 50 texts of every 65,536 that share the most words with it, weighted by inverse
    document frequency (Spärck Jones 1972).

    Parameters
    ----------
    corpus
        Its train split is searched.
    """

    def __init__(self, corpus: Corpus):
        self._chunks = list(
            corpus.scan("train").select("id", "completion").collect_batches(chunk_size=CHUNK, maintain_order=True)
        )
        self._folded = [[fold(text) for text in chunk["completion"]] for chunk in self._chunks]
        self._known = {hash(text) for texts in self._folded for text in texts}
        characters = sum(map(len, (text for texts in self._folded for text in texts)))
        self._long = characters > LONG * sum(map(len, self._folded))
        self._words = list(map(_words, self._folded)) if self._long else []

    def is_copy(self, text: str) -> bool:
        """Whether a training text equals this one, case and white space folded."""
        return hash(fold(text)) in self._known

    def find(self, texts: list[str]) -> list[Match]:
        """The most similar training text of each text; the first of equally similar ones."""
        best: list[tuple[float, int, int]] = [(-1.0, 0, 0)] * len(texts)
        folded = [fold(text) for text in texts]
        for number in range(len(self._chunks)):
            search = self._among_candidates if self._long else self._among_all
            for i, (score, row) in enumerate(search(folded, number)):
                if score > best[i][0]:
                    best[i] = score, number, row
        return [Match(*self._chunks[number].row(row), round(score / 100, 4)) for score, number, row in best]

    def _among_all(self, texts: list[str], number: int) -> list[tuple[float, int]]:
        found = []
        for start in range(0, len(texts), 64):
            scores = process.cdist(texts[start : start + 64], self._folded[number], scorer=fuzz.ratio, workers=-1)
            found += [(float(row.max()), int(row.argmax())) for row in scores]
        return found

    def _among_candidates(self, texts: list[str], number: int) -> list[tuple[float, int]]:
        choices, words = self._folded[number], self._words[number]
        weights = np.log(len(choices) / np.maximum(1, np.bincount(words.indices, minlength=COLUMNS)))
        shared = (_words(texts) @ diags_array(weights) @ words.T).tocsr()
        found = []
        for i, text in enumerate(texts):
            row = shared[[i]]
            top = row.indices[np.argsort(-row.data, kind="stable")[:CANDIDATES]] if row.nnz else [0]
            scores = process.cdist([text], [choices[j] for j in top], scorer=fuzz.ratio)[0]
            found.append((float(scores.max()), int(top[scores.argmax()])))
        return found


def _words(texts: list[str]) -> csr_array:
    """Which words each text has, shape (texts, `COLUMNS`)."""
    table = pl.DataFrame({"row": np.arange(len(texts)), "word": pl.Series(texts, dtype=pl.String).str.split(" ")})
    pairs = table.explode("word").with_columns(pl.col("word").hash() % COLUMNS).unique()
    ones = np.ones(len(pairs), np.float32)
    return csr_array((ones, (pairs["row"].to_numpy(), pairs["word"].to_numpy())), (len(texts), COLUMNS))
