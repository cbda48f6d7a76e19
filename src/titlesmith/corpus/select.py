"""Selection: which papers the corpus contains, and why the others are dropped."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from titlesmith.corpus.clean import fold_all
from titlesmith.corpus.papers import Papers
from titlesmith.errors import RequestError, shorten


@dataclass
class Selection:
    """The result of `select`.

    ``kept`` has a boolean for each paper of the file, ``published`` its day as a number (0 if it has none), and
    ``dropped`` for each reason the rows of the papers that were dropped for it.
    """

    kept: np.ndarray
    published: np.ndarray
    dropped: dict[str, np.ndarray]

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
    fields, texts = papers.template.fields, papers.template.texts
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
    parts = []
    for batch in papers.batches():
        hashes = {f"same {name.strip('{}')}": fold_all(batch[name]).hash() for name in texts}
        parts.append(batch.select(number=number, day=day, **{"same id": pl.col("id").hash()}).with_columns(**hashes))
    table = pl.concat(parts)
    numbers = table["number"].to_numpy()
    selection = Selection(np.ones(len(papers), bool), table["day"].to_numpy(), {})
    for i, reason in enumerate(reasons, 1):
        selection.drop(reason, np.flatnonzero(numbers == i))

    # Duplicates among the papers that are left
    for reason in table.columns[2:]:
        rows = np.flatnonzero(selection.kept)
        selection.drop(reason, rows[~table[reason].gather(rows).is_first_distinct().to_numpy()])
    if settings["near_duplicates"]:
        from titlesmith.corpus.near import near_duplicates  # datasketch takes seconds to import

        batches = papers.batches(selection.kept)
        joined = (batch.select("row", pl.concat_str(texts, separator=" ")).iter_rows() for batch in batches)
        rows = near_duplicates((pair for pairs in joined for pair in pairs), settings["near_duplicates"])
        selection.drop(f"similarity to an older paper >= {settings['near_duplicates']:g}", np.array(rows, np.int64))
    return selection


def check_patterns(name: str, patterns: list[str]) -> None:
    """Checks that the regular expressions of a parameter are valid (RequestError)."""
    for pattern in patterns:
        try:
            pl.Series([""]).str.contains(f"(?i){pattern}")
        except pl.exceptions.ComputeError as error:
            reason = str(error).partition("\n\n")[0]  # without polars' expression
            raise RequestError(f"corpus.{name}: {shorten(pattern)} is not a regular expression: {reason}") from None
