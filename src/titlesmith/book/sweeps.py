"""Pages of sweeps: a table in the form of the reports, losses overlaid, and a figure for each hyperparameter."""

import json
import statistics
from dataclasses import dataclass

from titlesmith import tables
from titlesmith.book import figures
from titlesmith.book.compare import BEST, written
from titlesmith.book.pages import number
from titlesmith.book.report import SPLITS, Report
from titlesmith.book.untrusted import myst


@dataclass(frozen=True)
class Figure:
    """A figure over the repeats of a combination: its mean and an interval, None where there is none."""

    mean: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, chosen: list[Report], name: str) -> "Figure":
        """Mean, lowest and highest of several repeats; of a single run its figure and the interval that it measured."""
        values = [value for report in chosen if (value := report.figure(name)) is not None]
        if not values:
            return cls(None)
        if len(values) > 1:
            return cls(statistics.fmean(values), min(values), max(values))
        interval = next(filter(None, (report.interval(name) for report in chosen)), (None, None))
        return cls(values[0], *interval)

    def __str__(self) -> str:
        shown = number(self.mean)
        return shown if self.low is None else f"{shown} [{number(self.low)}, {number(self.high)}]"


def grouped(reports: list[Report]) -> dict[str, list[Report]]:
    """The runs of each sweep, by its name."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        if report.sweep:
            found.setdefault(report.sweep["name"], []).append(report)
    return dict(sorted(found.items()))


def references(name: str, folders: list) -> list[dict]:
    """The rows of earlier systems that a sweep's file sets beside its runs; none where they cannot be read."""
    for folder in folders:
        try:
            found = json.loads((folder / "sweeps" / f"{name}.json").read_text("utf-8")).get("reference", [])
            return [row for row in found if isinstance(row, dict)]
        except (OSError, ValueError, AttributeError):
            continue
    return []


def page(name: str, reports: list[Report], reference: list[dict]) -> str:
    """The page of a sweep.

    Parameters
    ----------
    name
        Of the sweep.
    reports
        Its runs.
    reference
        Figures that others published: the hyperparameters' values by their keys, ``perplexity`` (a number, that of
        the test split, or numbers by split) and ``source``.
    """
    keys = list(dict.fromkeys(key for report in reports for key in report.sweep["set"]))
    combined: dict[tuple, list[Report]] = {}
    for report in sorted(reports, key=lambda r: [_order(r.sweep["set"].get(key)) for key in keys]):
        combined.setdefault(tuple(written(report.sweep["set"].get(key)) for key in keys), []).append(report)
    rows = {values: {s: Figure.of(runs, f"perplexity.{s}") for s in SPLITS} for values, runs in combined.items()}
    repeats = max(map(len, combined.values()))
    over = (
        f"Figures are means of up to {repeats} repeats with other seeds, the lowest and the highest in brackets."
        if repeats > 1
        else "In brackets stands the 95% interval over the documents, where it was measured."
    )
    parts = [
        f"# The sweep {myst(name)}\n",
        f"{len(reports)} runs, which differ in {' and '.join(map(myst, keys))}. The best value of a column "
        f"is marked. {over} The columns of the splits hold perplexities.\n",
        _invented(reports),
        table(keys, rows, combined, reference),
        "## The losses\n",
        _curves(name, combined),
        *(_hyperparameter(name, key, keys, reports) for key in keys),
        "## The runs\n",
        "".join(f"- [{myst(run)}](../runs/{run}/index.md)\n" for run in sorted(report.name for report in reports)),
    ]
    return "\n".join(parts)


def _order(value: object) -> tuple:
    """Numbers in their order, then texts in theirs."""
    number = isinstance(value, (int, float))
    return (not number, value if number else 0, str(value))


def _short(keys: list[str]) -> dict[str, str]:
    """Keys without their stage, where that leaves them apart."""
    short = {key: key.rpartition(".")[2] for key in keys}
    return short if len(set(short.values())) == len(keys) else {key: key for key in keys}


def _invented(reports: list[Report]) -> str:
    from titlesmith.book.pages import made_up

    return next(filter(None, map(made_up, reports)), "")


def table(keys: list[str], rows: dict[tuple, dict], combined: dict[tuple, list[Report]], reference: list[dict]) -> str:
    """The table in the reports' form: perplexity by split, a row a combination, then the rows of others."""
    best = {
        split: min((row[split].mean for row in rows.values() if row[split].mean is not None), default=None)
        for split in SPLITS
    }
    shown = [
        dict(zip(keys, values, strict=True))
        | {"runs": len(combined[values])}
        | {
            split: f"{row[split]}{BEST if row[split].mean == best[split] is not None and len(rows) > 1 else ''}"
            for split in SPLITS
        }
        | {"whose": "this book"}
        for values, row in rows.items()
    ]
    for row in reference:
        given = row["perplexity"] if isinstance(row.get("perplexity"), dict) else {"test": row.get("perplexity")}
        values = row["set"] if isinstance(row.get("set"), dict) else row
        shown.append(
            {key: written(values.get(key)) for key in keys}
            | {"runs": ""}
            | {
                split: number(given.get(split)) if isinstance(given.get(split), (int, float)) else "-"
                for split in SPLITS
            }
            | {"whose": f"theirs: {row.get('source', 'published')}"}
        )
    headings = _short(keys) | {"runs": "runs"} | {split: split for split in SPLITS} | {"whose": "whose"}
    return tables.html(shown, headings) + "\n"


def _curves(name: str, combined: dict[tuple, list[Report]]) -> str:
    lines = [
        (", ".join(values), i, report.history) for i, (values, runs) in enumerate(combined.items()) for report in runs
    ]
    alt = (
        f"Smoothed training loss and validation loss against steps for the {len(lines)} runs of the sweep {name}, "
        f"one style for each of {len(combined)} combinations. The figures at the end stand in the table."
    )
    return figures.image(f"sweep-{name}-losses", lambda: figures.curves(lines), alt)


def _hyperparameter(name: str, key: str, keys: list[str], reports: list[Report]) -> str:
    others = [k for k in keys if k != key]
    found: dict[str, dict[object, list[Report]]] = {}
    for report in reports:
        given = report.sweep["set"]
        label = ", ".join(f"{k.rpartition('.')[2]} {written(given.get(k))}" for k in others)
        value = given.get(key)
        value = value if isinstance(value, (int, float)) and not isinstance(value, bool) else written(value)
        found.setdefault(label, {}).setdefault(value, []).append(report)
    lines = {}
    for label, by_value in sorted(found.items()):
        measured = [(value, Figure.of(runs, "perplexity.test")) for value, runs in by_value.items()]
        lines[label] = [
            (value, f.mean, f.mean if f.low is None else f.low, f.mean if f.high is None else f.high)
            for value, f in measured
            if f.mean is not None
        ]
    points = [point for line in lines.values() for point in line]
    if not points:
        return f"## {myst(key)}\n\nNo run measured the test perplexity.\n"
    low = min(points, key=lambda point: point[1])
    alt = (
        f"Test perplexity against {key}, a line for each setting of the others; "
        f"the lowest, {number(low[1])}, at {written(low[0])}."
    )
    drawn = figures.image(
        f"sweep-{name}-{keys.index(key)}", lambda: figures.hyperparameter(key, lines, "test perplexity, tokens"), alt
    )
    return f"## {myst(key)}\n\n{drawn}"
