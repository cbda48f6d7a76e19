"""Faults: rows that a source cannot read, counted by reason, with the first examples."""

import polars as pl

EXAMPLES = 3  # per reason
LINE = "(line)"  # column of a file's table: the number of the row's line, counted from 1
SHOWN = 80  # characters of a value


class Faults:
    """Rows of a source that are not papers, or whose reading is doubtful.

    ``reasons`` has for each reason ``{"rows": count, "examples": [at most EXAMPLES texts]}``.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, dict] = {}

    def add(self, reason: str, example: str, rows: int = 1) -> None:
        """Counts ``rows`` rows; the example names the file and line, or the record, and the value."""
        entry = self.reasons.setdefault(reason, {"rows": 0, "examples": []})
        entry["rows"] += rows
        if len(entry["examples"]) < EXAMPLES:
            entry["examples"].append(example)

    def sift(self, table: pl.DataFrame, name: str, rules: list[tuple[str, str, pl.Expr]]) -> pl.DataFrame:
        """Returns the rows of the file ``name`` that satisfy all rules, and counts the others.

        A rule is a reason, the column to show as an example, and the condition that good rows satisfy.
        """
        for reason, shown, good in rules:
            good = good.fill_null(False)
            for line, value in table.filter(~good).select(LINE, shown).iter_rows():
                self.add(reason, at(name, line, value))
            table = table.filter(good)
        return table

    def sift_records(self, page: pl.DataFrame) -> pl.DataFrame:
        """Returns the records of a service that have no text in the column ``fault``, and counts the others."""
        good = pl.col("fault").is_null()
        for number, fault in page.filter(~good).select("id", "fault").iter_rows():
            self.add("records that lack a field or have a wrong date", f"{number}: {fault}")
        return page.filter(good)

    def __str__(self) -> str:
        reasons = (f"{reason}: {entry['rows']:,} ({entry['examples'][0]})" for reason, entry in self.reasons.items())
        return "; ".join(reasons)


def at(name: str, line: int, value: str | None) -> str:
    """An example: file, line, and the beginning of the value."""
    shown = repr(value and value.rstrip("\r\n"))
    return f"{name}, line {line:,}: {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}"
