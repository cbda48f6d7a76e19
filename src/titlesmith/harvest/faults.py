"""Faults: what a source could not read, counted by reason, with the first places where it was met."""

import polars as pl

EXAMPLES = 3
LINE = "(line)"  # column of a source's table: where in the file a row stands, counted from 1
SHOWN = 80  # characters of a value


class Faults:
    """Rows of a source that are no papers, or that were read with a doubt.

    Attributes
    ----------
    found
        For each reason ``{"rows": how many, "examples": [where and what, at most `EXAMPLES`]}``.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict] = {}

    def add(self, reason: str, example: str, rows: int = 1) -> None:
        """Counts ``rows`` rows; ``example`` says where (file and line) and what stands there."""
        entry = self.found.setdefault(reason, {"rows": 0, "examples": []})
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
            Why the others are no papers.
        shown
            The column whose value is shown as an example.
        """
        fine = table.select(good.fill_null(False)).to_series()
        bad = table.filter(~fine).select(LINE, shown)
        for place, (line, value) in enumerate(bad.head(EXAMPLES).iter_rows()):
            self.add(reason, at(name, line, value), 1 if place else bad.height - min(bad.height, EXAMPLES) + 1)
        return table.filter(fine) if bad.height else table

    def __str__(self) -> str:
        found = (f"{reason}: {entry['rows']:,} ({entry['examples'][0]})" for reason, entry in self.found.items())
        return "; ".join(found)


def at(name: str, line: int, what: object) -> str:
    """An example's text: where it is, and the beginning of what stands there."""
    if isinstance(what, bytes):
        what = what.decode("utf-8", "replace")
    shown = repr(what.rstrip("\r\n") if isinstance(what, str) else what)
    return f"{name}, line {line:,}: {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}"
