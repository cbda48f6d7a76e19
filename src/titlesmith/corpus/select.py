"""Selection: which papers a corpus is made of, and why the others are left out."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from titlesmith.corpus.clean import fold_all
from titlesmith.corpus.papers import Papers
from titlesmith.errors import RequestError


@dataclass
class Selection:
    """What `select` finds.

    Attributes
    ----------
    kept
        A truth value for each paper of the file.
    published
        The day of each paper of the file, as a number; 0 where there is none.
    dropped
        For each reason to leave papers out, their rows in the file.
    """

    kept: np.ndarray
    published: np.ndarray
    dropped: dict[str, np.ndarray]

    def drop(self, reason: str, rows: np.ndarray) -> None:
        """Leaves rows out, behind those that a reason has already."""
        self.dropped[reason] = np.concatenate([self.dropped.get(reason, rows[:0]), rows])
        self.kept[rows] = False


def select(papers: Papers, settings: dict) -> Selection:
    """Finds the papers that can be used; each other paper is counted under the first reason that applies.

    Of papers that are equal the one that stands first, the oldest, is kept. Equality is that of 64-bit hashes, so that
    all of arXiv fits in memory; that two different texts among 2.5 million share one has a chance of 2 in 10 million.

    Parameters
    ----------
    papers
        As harvested, oldest first.
    settings
        ``order`` (a split by date cannot place papers without one), ``min_words`` and ``max_words`` of the completion,
        ``drop`` (regular expressions, searched in the template's fields whatever the case), ``near_duplicates`` (a
        similarity, 0 for off).
    """
    fields, texts = papers.template.fields, papers.template.texts
    columns = [f"{{{name}}}" for name in fields]
    words = pl.col("completion").str.count_matches(" ", literal=True) + 1
    reasons = {
        "no date": pl.col("published").is_null() & (settings["order"] == "date"),
        "no " + " or ".join(fields): pl.any_horizontal(pl.col(columns) == ""),
    }
    if settings["min_words"]:
        reasons[f"fewer than {settings['min_words']} words"] = words < settings["min_words"]
    if settings["max_words"]:
        reasons[f"more than {settings['max_words']} words"] = words > settings["max_words"]
    for pattern in settings["drop"]:
        reasons[f"matches {pattern}"] = pl.any_horizontal(pl.col(columns).str.contains(f"(?i){pattern}"))
    number = pl.coalesce(*(pl.when(e).then(i) for i, e in enumerate(reasons.values(), 1)), 0).cast(pl.UInt16)
    day = pl.col("published").to_physical().fill_null(0)
    parts = []
    for batch in papers.batches():
        hashes = {f"same {name.strip('{}')}": fold_all(batch[name]).hash() for name in texts}
        parts.append(batch.select(number=number, day=day, **{"same id": pl.col("id").hash()}).with_columns(**hashes))
    found = pl.concat(parts)
    numbers = found["number"].to_numpy()
    selection = Selection(np.ones(len(papers), bool), found["day"].to_numpy(), {})
    for i, reason in enumerate(reasons, 1):
        selection.drop(reason, np.flatnonzero(numbers == i))
    for reason in found.columns[2:]:
        rows = np.flatnonzero(selection.kept)
        selection.drop(reason, rows[~found[reason].gather(rows).is_first_distinct().to_numpy()])
    if settings["near_duplicates"]:
        from titlesmith.corpus.near import near_duplicates  # datasketch takes seconds to import

        batches = papers.batches(selection.kept)
        joined = (batch.select("row", pl.concat_str(texts, separator=" ")).iter_rows() for batch in batches)
        rows = near_duplicates((pair for pairs in joined for pair in pairs), settings["near_duplicates"])
        selection.drop(f"as similar to an older one as {settings['near_duplicates']:g}", np.array(rows, np.int64))
    return selection


def check_patterns(patterns: list[str]) -> None:
    """Checks that regular expressions can be searched for (RequestError)."""
    for pattern in patterns:
        try:
            pl.Series([""]).str.contains(f"(?i){pattern}")
        except pl.exceptions.ComputeError as error:
            why = str(error).partition("\n\n")[0]  # without the expression in polars
            raise RequestError(f"corpus.drop: {pattern!r} is no regular expression: {why}") from None
