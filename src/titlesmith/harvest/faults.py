"""Faults: rows that a source could not read, counted by reason, with the first examples."""

import polars as pl

EXAMPLES = 3
LINE = "(line)"  # column of a source's table: the line of the file, counted from 1
SHOWN = 80  # characters of a value


class Faults:
    """Rows of a source that are not papers, or that were read with a doubt.

    Attributes
    ----------
    reasons
        For each reason ``{"rows": count, "examples": [line and value, at most `EXAMPLES`]}``.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, dict] = {}

    def add(self, reason: str, example: str, rows: int = 1) -> None:
        """Counts ``rows`` rows; ``example`` has the file, the line and the value."""
        entry = self.reasons.setdefault(reason, {"rows": 0, "examples": []})
        entry["rows"] += rows
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(example)

    def sift(self, table: pl.DataFrame, good: pl.Expr, reason: str, shown: str, name: str) -> pl.DataFrame:
        """The rows for which ``good`` holds; the others are counted.

        Parameters
        ----------
        table
            Rows of the file ``name``, with the column `LINE`.
        reason
            Why the others are not papers.
        shown
            The column whose value is shown as an example.
        """
        fine = table.select(good.fill_null(False)).to_series()
        bad = table.filter(~fine).select(LINE, shown)
        for index, (line, value) in enumerate(bad.head(EXAMPLES).iter_rows()):
            self.add(reason, at(name, line, value), 1 if index else bad.height - min(bad.height, EXAMPLES) + 1)
        return table.filter(fine) if bad.height else table

    def __str__(self) -> str:
        found = (f"{reason}: {entry['rows']:,} ({entry['examples'][0]})" for reason, entry in self.reasons.items())
        return "; ".join(found)


def at(name: str, line: int, what: object) -> str:
    """An example: file, line, and the beginning of the value."""
    if isinstance(what, bytes):
        what = what.decode("utf-8", "replace")
    shown = repr(what.rstrip("\r\n") if isinstance(what, str) else what)
    return f"{name}, line {line:,}: {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}"
