"""Pages of sweeps: a table of perplexities, the losses overlaid, and a figure for each hyperparameter."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from titlesmith import tables
from titlesmith.book import figures, pages
from titlesmith.book.compare import BEST, format_value
from titlesmith.book.report import SPLITS, Report
from titlesmith.errors import DAMAGE
from titlesmith.markup import Markup, number, render


@dataclass(frozen=True)
class Summary:
    """A measurement of one combination of values, summarized over its repeats; ``mean`` is None if no run measured it.

    ``low`` and ``high`` are the lowest and the highest of several repeats, or the ends of one run's 95% interval.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, reports: list[Report], name: str) -> "Summary":
        """The measurement ``name`` of these repeats."""
        values = [value for report in reports if (value := report.measurement(name)) is not None]
        if not values:
            return cls(None)
        if len(values) > 1:
            return cls(statistics.fmean(values), min(values), max(values))
        return cls(values[0], *next(filter(None, (report.interval(name) for report in reports)), (None, None)))

    def __str__(self) -> str:
        mean = number(self.mean)
        return mean if self.low is None else f"{mean} [{number(self.low)}, {number(self.high)}]"


def group_by_sweep(reports: list[Report]) -> dict[str, list[Report]]:
    """The runs of each sweep, by the sweep's name."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        if report.sweep:
            groups.setdefault(report.sweep["name"], []).append(report)
    return dict(sorted(groups.items()))


def read_references(name: str, folders: list[Path]) -> list[dict]:
    """Published results that a sweep's file lists for comparison, from the first folder with a readable file."""
    for folder in folders:
        try:
            rows = json.loads((folder / "sweeps" / f"{name}.json").read_text("utf-8")).get("reference", [])
            return [row for row in rows if isinstance(row, dict)]
        except DAMAGE:
            continue
    return []


def render_sweep(name: str, reports: list[Report], reference: list[dict]) -> Markup:
    """The page of a sweep with its runs.

    ``reference`` has published results: ``set`` (values of the hyperparameters by key), ``perplexity`` (a number, which
    is that of the test split, or numbers by split) and ``source``.
    """
    keys = list(dict.fromkeys(key for report in reports for key in report.sweep["set"]))
    # Repeats of one combination of values share a row
    combinations: dict[tuple, list[Report]] = {}
    for report in sorted(reports, key=lambda r: [_sort_key(r.sweep["set"].get(key)) for key in keys]):
        values = tuple(format_value(report.sweep["set"].get(key)) for key in keys)
        combinations.setdefault(values, []).append(report)
    # Every line of the losses is labelled with its combination
    lines = [
        (", ".join(values), i, report.history)
        for i, (values, repeats) in enumerate(combinations.items())
        for report in repeats
    ]
    alt = (
        f"Smoothed training loss and validation loss against steps for the {len(lines)} runs of the sweep {name}, "
        f"one line style for each of {len(combinations)} combinations. The table lists the final values."
    )
    return render(
        "sweep.md.j2",
        name=name,
        reports=reports,
        keys=keys,
        repeats=max(map(len, combinations.values())),
        warning=next(filter(None, map(pages.choose_warning, reports)), ""),
        table=render_table(keys, combinations, reference),
        losses=figures.render_figure(f"sweep-{name}-losses", lambda: figures.draw_curves(lines), alt),
        hyperparameters=[(key, _render_hyperparameter(name, key, keys, reports)) for key in keys],
    )


def _sort_key(value: object) -> tuple:
    """Sorts numbers by value, then texts."""
    is_number = isinstance(value, (int, float))
    return (not is_number, value if is_number else 0, str(value))


def render_table(keys: list[str], combinations: dict[tuple, list[Report]], reference: list[dict]) -> Markup:
    """Perplexity by split: a row for each combination of values, then the published results."""
    rows = [
        dict(zip(keys, values, strict=True)) | {"runs": len(repeats), "whose": "this book"}
        for values, repeats in combinations.items()
    ]
    # Mark the lowest perplexity of each split
    for split in SPLITS:
        cells = [Summary.of(repeats, f"perplexity.{split}") for repeats in combinations.values()]
        lowest = min((cell.mean for cell in cells if cell.mean is not None), default=None)
        for row, cell in zip(rows, cells, strict=True):
            row[split] = f"{cell}{BEST if len(rows) > 1 and lowest is not None and cell.mean == lowest else ''}"
    # Published results: values of unexpected types are shown as dashes
    for row in reference:
        perplexity = row["perplexity"] if isinstance(row.get("perplexity"), dict) else {"test": row.get("perplexity")}
        values = row["set"] if isinstance(row.get("set"), dict) else row
        published = {key: format_value(values.get(key)) for key in keys} | {"runs": ""}
        for split in SPLITS:
            value = perplexity.get(split)
            published[split] = number(value if isinstance(value, (int, float)) else None)
        rows.append(published | {"whose": f"published: {row.get('source', 'elsewhere')}"})
    # Headings without the stage, if they stay different
    short = {key: key.rpartition(".")[2] for key in keys}
    short = short if len(set(short.values())) == len(keys) else {key: key for key in keys}
    return tables.html(rows, short | {name: name for name in ("runs", *SPLITS, "whose")})


def _render_hyperparameter(name: str, key: str, keys: list[str], reports: list[Report]) -> Markup | str:
    """The figure of test perplexity against a hyperparameter; empty if no run measured it."""
    # Group the runs: a line for each combination of the other values, a point for each value of the key
    groups: dict[str, dict[object, list[Report]]] = {}
    for report in reports:
        values = report.sweep["set"]
        label = ", ".join(f"{k.rpartition('.')[2]} {format_value(values.get(k))}" for k in keys if k != key)
        value = values.get(key)
        value = value if isinstance(value, (int, float)) and not isinstance(value, bool) else format_value(value)
        groups.setdefault(label, {}).setdefault(value, []).append(report)
    lines = {}
    for label, by_value in sorted(groups.items()):
        points = [(value, Summary.of(repeats, "perplexity.test")) for value, repeats in by_value.items()]
        lines[label] = [(v, m.mean, m.low or m.mean, m.high or m.mean) for v, m in points if m.mean is not None]
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    best = min(points, key=lambda point: point[1])
    alt = (
        f"Test perplexity against {key}, a line for each combination of the other values; "
        f"the lowest, {number(best[1])}, at {format_value(best[0])}."
    )
    # The key is not a part of the file's name: runs of others may have any key
    file = f"sweep-{name}-{keys.index(key)}"
    return figures.render_figure(file, lambda: figures.draw_hyperparameter(key, lines, "test perplexity, tokens"), alt)
