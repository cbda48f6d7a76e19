"""Pages of sweeps: a table of measurements, the losses overlaid, and figures of measurements against parameters."""

import statistics

from titlesmith import tables
from titlesmith.book import figures
from titlesmith.book.compare import BEST, find_best, format_value
from titlesmith.book.report import SPLITS, Report
from titlesmith.evaluate.measurement import Measurement
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.markup import Markup, number, render
from titlesmith.sweep.file import CASE


def summarize(reports: list[Report], name: str) -> Measurement | None:
    """A measurement of repeats: their mean, from the lowest to the highest; of one run: its value, 95% interval."""
    values = [value for report in reports if (value := report.measurement(name)) is not None]
    if len(values) > 1:
        return Measurement(statistics.fmean(values), (min(values), max(values)))
    intervals = filter(None, (report.interval(name) for report in reports))
    return Measurement(values[0], next(intervals, None)) if values else None


def format_summary(summary: Measurement | None) -> str:
    """A measurement with its interval in brackets; a dash for None."""
    if summary is None or summary.interval is None:
        return number(summary and summary.value)
    low, high = summary.interval
    return f"{number(summary.value)} [{number(low)}, {number(high)}]"


def render_sweep(name: str, reports: list[Report], record: dict) -> Markup:
    """The page of a sweep with its runs; ``record`` is that of `compare.read_record`."""
    keys = list(dict.fromkeys(key for report in reports for key in report.sweep["set"]))
    # Repeats of one combination of values share a row, and a style in the figure of the losses
    combinations: dict[tuple, list[Report]] = {}
    for report in sorted(reports, key=lambda r: [_sort_key(r.sweep["set"].get(key)) for key in keys]):
        values = tuple(format_value(report.sweep["set"].get(key)) for key in keys)
        combinations.setdefault(values, []).append(report)
    lines = {", ".join(values): [r.history for r in repeats] for values, repeats in combinations.items()}
    alt = f"Training loss and validation loss against steps, one line style for each of {len(lines)} combinations."
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
        made_up=any(report.made_up for report in reports),
        table=render_table(keys, combinations, reference, shown),
        losses=figures.render_figure(f"sweep-{name}-losses", alt, figures.draw_curves, lines),
        plots=[
            (_label(x), _label(y), _render_plot(f"sweep-{name}-{number}", x, y, keys, reports))
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
        summaries, best = [summarize(repeats, name) for repeats in combinations.values()], MEASUREMENTS[name][1]
        top = find_best([summary and summary.value for summary in summaries], best)
        for row, summary in zip(rows, summaries, strict=True):
            row[name] = format_summary(summary) + (BEST if summary and summary.value == top else "")
    for row in reference:
        published = {key: format_value(row["set"].get(key)) for key in keys}
        published |= {name: number(row.get(name)) for name in measurements}
        rows.append(published | {"whose": f"published: {row['source']}"})
    # Headings without the stage, if they stay different
    short = {key: key.rpartition(".")[2] for key in keys}
    short = short if len(set(short.values())) == len(keys) else {key: key for key in keys}
    return tables.html(rows, short | {name: _label(name) for name in ("runs", *measurements, "whose")})


def _render_plot(file: str, x: str, y: str, keys: list[str], reports: list[Report]) -> Markup | str:
    """The figure of a measurement against a hyperparameter or another measurement; empty if no run measured it.

    ``file`` is the figure's name, without the key: runs of others may have any key.
    """
    reports = [report for report in reports if report.measurement(y) is not None]
    if x in MEASUREMENTS:
        labels = {", ".join(format_value(v) for v in r.sweep["set"].values()): r for r in reports}
        points = {label: (r.measurement(x), r.measurement(y)) for label, r in labels.items()}
        points = {label: point for label, point in points.items() if point[0] is not None}
        alt = f"{_label(y)} against {_label(x)}, a point for each of {len(points)} runs."
        return figures.render_figure(file, alt, figures.draw_scatter, points, _label(x), _label(y)) if points else ""
    if not reports:
        return ""
    # A line for each combination of the other values, a point for each value of the key
    others = [key for key in keys if key != x and (x in keys or key != CASE)]  # a case decides keys that are not varied
    labels = [
        ", ".join(f"{key.rpartition('.')[2]} {format_value(report.sweep['set'].get(key))}" for key in others)
        for report in reports
    ]
    if len(set(labels)) == len(reports) > len(figures.COLOURS):  # runs of a search, in which all values differ
        labels = [""] * len(reports)
    groups: dict[str, dict[object, list[Report]]] = {}
    for label, report in zip(labels, reports, strict=True):
        value = report.sweep["set"].get(x) if x in keys else report.setting(x)
        value = value if isinstance(value, (int, float)) and not isinstance(value, bool) else format_value(value)
        groups.setdefault(label, {}).setdefault(value, []).append(report)
    lines = {
        label: [(value, summarize(repeats, y)) for value, repeats in by_value.items()]
        for label, by_value in sorted(groups.items())
    }
    is_highest = MEASUREMENTS[y][1] is max
    points = [point for line in lines.values() for point in line]
    value, best = (max if is_highest else min)(points, key=lambda point: point[1].value)
    alt = (
        f"{_label(y)} against {x}, a line for each combination of the other values; "
        f"the {'highest' if is_highest else 'lowest'}, {number(best.value)}, at {format_value(value)}."
    )
    return figures.render_figure(file, alt, figures.draw_hyperparameter, x, lines, _label(y))
