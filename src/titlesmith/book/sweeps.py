"""Pages of sweeps: a table of measurements, the losses overlaid, and figures of measurements against parameters."""

import statistics
from dataclasses import dataclass

from titlesmith import tables
from titlesmith.book import figures, pages
from titlesmith.book.compare import BEST, format_value
from titlesmith.book.report import SPLITS, Report
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.markup import Markup, number, render
from titlesmith.sweep.file import CASE


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


def render_sweep(name: str, reports: list[Report], record: dict) -> Markup:
    """The page of a sweep with its runs; ``record`` is that of `compare.read_record`."""
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
    drawn = [(values, [r.training["fingerprint"] for r in repeats]) for values, repeats in combinations.items()]
    alt = (
        f"Smoothed training loss and validation loss against steps for the {len(lines)} runs of the sweep {name}, "
        f"one line style for each of {len(combinations)} combinations. The table lists the final values."
    )
    # Measurements: the perplexities, and what the published results or the figures have
    reference, plots = record["reference"], [*((key, f"perplexity.{SPLITS[-1]}") for key in keys), *record["plot"]]
    given = {key for row in reference for key in row} | {key for pair in plots for key in pair}
    shown = [key for key in MEASUREMENTS if key in given or key.startswith("perplexity.")]
    return render(
        "sweep.md.j2",
        name=name,
        reports=reports,
        keys=keys,
        repeats=max(map(len, combinations.values())),
        warning=next(filter(None, map(pages.choose_warning, reports)), ""),
        table=render_table(keys, combinations, reference, shown),
        losses=figures.render_figure(f"sweep-{name}-losses", lambda: figures.draw_curves(lines), alt, drawn),
        plots=[
            (_label(x), MEASUREMENTS[y][0], _render_plot(f"sweep-{name}-{number}", x, y, keys, reports))
            for number, (x, y) in enumerate(dict.fromkeys(plots))
        ],
    )


def _sort_key(value: object) -> tuple:
    """Sorts numbers by value, then texts."""
    is_number = isinstance(value, (int, float))
    return (not is_number, value if is_number else 0, str(value))


def _label(key: str) -> str:
    return MEASUREMENTS[key][0] if key in MEASUREMENTS else key


def render_table(
    keys: list[str], combinations: dict[tuple, list[Report]], reference: list[dict], measurements: list[str]
) -> Markup:
    """Measurements: a row for each combination of values, then the published results."""
    rows = [
        dict(zip(keys, values, strict=True)) | {"runs": len(repeats), "whose": "this book"}
        for values, repeats in combinations.items()
    ]
    # Mark the best value of each measurement
    for name in measurements:
        cells, best = [Summary.of(repeats, name) for repeats in combinations.values()], MEASUREMENTS[name][1]
        known = {cell.mean for cell in cells if cell.mean is not None}
        top = best(known) if best and known and len(rows) > 1 else None
        for row, cell in zip(rows, cells, strict=True):
            row[name] = f"{cell}{BEST if cell.mean is not None and cell.mean == top else ''}"
    # Published results: values of unexpected types are shown as dashes
    for row in reference:
        values = row["set"] if isinstance(row.get("set"), dict) else {}
        published = {key: format_value(values.get(key)) for key in keys} | {"runs": ""}
        for name in measurements:
            value = row.get(name)
            published[name] = number(value if isinstance(value, (int, float)) else None)
        rows.append(published | {"whose": f"published: {row.get('source', 'elsewhere')}"})
    # Headings without the stage, if they stay different
    short = {key: key.rpartition(".")[2] for key in keys}
    short = short if len(set(short.values())) == len(keys) else {key: key for key in keys}
    return tables.html(rows, short | {name: _label(name) for name in ("runs", *measurements, "whose")})


def _render_plot(file: str, x: str, y: str, keys: list[str], reports: list[Report]) -> Markup | str:
    """The figure of a measurement against a hyperparameter or another measurement; empty if no run measured it.

    ``file`` is the figure's name, without the key: runs of others may have any key.
    """
    if x in MEASUREMENTS:
        values = {", ".join(format_value(v) for v in r.sweep["set"].values()): r for r in reports}
        points = {label: (r.measurement(x), r.measurement(y)) for label, r in values.items()}
        points = {label: point for label, point in points.items() if None not in point}
        if not points:
            return ""
        alt = f"{_label(y)} against {_label(x)}, a point for each of {len(points)} runs."
        names = _label(x), _label(y)
        return figures.render_figure(file, lambda: figures.draw_scatter(points, *names), alt, (names, points))
    # Group the runs: a line for each combination of the other values, a point for each value of the key
    groups: dict[str, dict[object, list[Report]]] = {}
    others = [key for key in keys if key != x and (x in keys or key != CASE)]  # a case decides keys that are not varied
    for report in reports:
        values = report.sweep["set"]
        label = ", ".join(f"{key.rpartition('.')[2]} {format_value(values.get(key))}" for key in others)
        value = values.get(x, None) if x in keys else report.setting(x)
        value = value if isinstance(value, (int, float)) and not isinstance(value, bool) else format_value(value)
        groups.setdefault(label, {}).setdefault(value, []).append(report)
    if len(groups) == len(reports) > len(figures.COLOURS):  # runs of a search, in which all values differ
        values = [pair for by_value in groups.values() for pair in by_value.items()]
        groups = {"": {}}
        for value, found in values:
            groups[""].setdefault(value, []).extend(found)
    lines = {}
    for label, by_value in sorted(groups.items()):
        points = [(value, Summary.of(repeats, y)) for value, repeats in by_value.items()]
        lines[label] = [
            (v, m.mean, m.mean if m.low is None else m.low, m.mean if m.high is None else m.high)
            for v, m in points
            if m.mean is not None
        ]
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    end = (MEASUREMENTS[y][1] or min)(points, key=lambda point: point[1])
    kind = "highest" if MEASUREMENTS[y][1] is max else "lowest"
    alt = (
        f"{_label(y)} against {x}, a line for each combination of the other values; "
        f"the {kind}, {number(end[1])}, at {format_value(end[0])}."
    )
    return figures.render_figure(file, lambda: figures.draw_hyperparameter(x, lines, _label(y)), alt, (x, y, lines))
