"""Selection: which papers the corpus contains, and why the others are dropped."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from titlesmith.corpus.papers import Papers
from titlesmith.errors import RequestError, shorten

SHINGLE = 5  # characters, in whose runs near-duplicates are compared


@dataclass
class Selection:
    """The result of `select`.

    ``kept`` has a boolean for each paper of the file, ``published`` its day as a number (0 if it has none), and
    ``dropped`` for each reason the rows of the papers that were dropped for it.
    """

    kept: np.ndarray
    published: np.ndarray
    dropped: dict[str, np.ndarray]

    def __str__(self) -> str:
        counts = ", ".join(f"{reason}: {len(rows):,}" for reason, rows in self.dropped.items() if len(rows))
        return f"Of {len(self.kept):,} papers were dropped: {counts or 'none'}"

    def drop(self, reason: str, rows: np.ndarray) -> None:
        """Drops rows for a reason, in addition to those already dropped for it."""
        self.dropped[reason] = np.concatenate([self.dropped.get(reason, rows[:0]), rows])
        self.kept[rows] = False


def select(papers: Papers, settings: dict) -> Selection:
    """Selects the usable papers; each other paper counts under the first reason that applies.

    Of equal papers the first, the oldest, is kept. They are compared by 64-bit hashes, so that all of arXiv fits in
    memory; the chance that two different texts among 2.5 million have the same hash is 2 in 10 million. ``settings``
    are the parameters of the corpus notebook.
    """
    fields = papers.template.fields
    # No two documents share a title or an abstract, or else a completion
    texts = [f"{{{name}}}" for name in fields if name in ("title", "abstract")] or ["completion"]
    columns = [f"{{{name}}}" for name in fields]
    num_words = pl.col("completion").str.count_matches(" ", literal=True) + 1

    # Reasons that a paper's own texts decide
    reasons = {
        "no date": pl.col("published").is_null() & (settings["order"] == "date"),
        "no " + " or ".join(fields): pl.any_horizontal(pl.col(columns) == ""),
    }
    if settings["min_words"]:
        reasons[f"fewer than {settings['min_words']} words"] = num_words < settings["min_words"]
    if settings["max_words"]:
        reasons[f"more than {settings['max_words']} words"] = num_words > settings["max_words"]
    if settings["max_characters"]:
        most = settings["max_characters"]
        reasons[f"more than {most} characters"] = pl.col("completion").str.len_chars() > most
    for pattern in settings["drop"]:
        reasons[f"matches {pattern}"] = pl.any_horizontal(pl.col(columns).str.contains(f"(?i){pattern}"))

    # One pass over the papers keeps a reason, a day and hashes for each
    number = pl.coalesce(*(pl.when(e).then(i) for i, e in enumerate(reasons.values(), 1)), 0).cast(pl.UInt16)
    day = pl.col("published").to_physical().fill_null(0)
    hashes = {"same id": pl.col("id").hash()}
    hashes |= {f"same {name.strip('{}')}": pl.col(name).str.to_lowercase().hash() for name in texts}
    table = pl.concat([batch.select(number=number, day=day, **hashes) for batch in papers.batches()])
    numbers = table["number"].to_numpy()
    selection = Selection(np.ones(len(papers), bool), table["day"].to_numpy(), {})
    for i, reason in enumerate(reasons, 1):
        selection.drop(reason, np.flatnonzero(numbers == i))

    # Duplicates among the papers that are left
    for reason in hashes:
        rows = np.flatnonzero(selection.kept)
        selection.drop(reason, rows[~table[reason].gather(rows).is_first_distinct().to_numpy()])
    if settings["near_duplicates"]:
        batches = papers.batches(selection.kept)
        joined = (batch.select("row", pl.concat_str(texts, separator=" ")).iter_rows() for batch in batches)
        rows = near_duplicates((pair for pairs in joined for pair in pairs), settings["near_duplicates"])
        selection.drop(f"similarity to an older paper >= {settings['near_duplicates']:g}", np.array(rows, np.int64))
    return selection


def near_duplicates(texts: Iterable[tuple[int, str]], threshold: float) -> list[int]:
    """The numbers of texts whose similarity to an earlier text that is kept is at least ``threshold``, in (0, 1].

    The similarity of two texts is the Jaccard index of their sets of shingles, runs of five case-folded characters.
    Candidates come from MinHash signatures of 128 values and locality-sensitive hashing (Broder 1997; Leskovec et al.
    2020, chapter 3), and are then compared exactly; a pair just above the threshold can be missed. 100,000 titles take
    about 20 seconds and 300 MB; memory grows with the texts that are kept.
    """
    from datasketch import MinHash, MinHashLSH  # takes seconds to import

    # The index allows no threshold above 0.98; candidates are compared exactly in any case
    index, empty = MinHashLSH(threshold=min(threshold, 0.98), num_perm=128), MinHash(num_perm=128, hashfunc=zlib.crc32)
    kept: dict[int, str] = {}
    duplicates = []
    for number, text in texts:
        shingles, signature = _shingles(text), empty.copy()
        signature.update_batch(shingles)
        if any(_jaccard(shingles, _shingles(kept[other])) >= threshold for other in index.query(signature)):
            duplicates.append(number)
        else:
            index.insert(number, signature)
            kept[number] = text
    return duplicates


def _shingles(text: str) -> set[bytes]:
    folded = text.casefold().encode()
    return {folded[i : i + SHINGLE] for i in range(max(1, len(folded) - SHINGLE + 1))}


def _jaccard(one: set[bytes], other: set[bytes]) -> float:
    return len(one & other) / len(one | other)


def check_patterns(name: str, patterns: list[str]) -> None:
    """Checks that the regular expressions of a parameter are valid (RequestError)."""
    for pattern in patterns:
        try:
            pl.Series([""]).str.contains(f"(?i){pattern}")
        except pl.exceptions.ComputeError as error:
            reason = str(error).partition("\n\n")[0]  # without polars' expression
            raise RequestError(f"corpus.{name}: {shorten(pattern)} is not a regular expression: {reason}") from None
