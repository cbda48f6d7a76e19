"""Comparisons of runs: the parameters that differ, their measurements, their texts."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from titlesmith import tables
from titlesmith.book.report import Report
from titlesmith.errors import DAMAGE, RequestError
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.experiment import SHARED
from titlesmith.markup import Markup, number, render, text
from titlesmith.runs import STAGES, open_run, root

BEST = " (best)"


def compare(reports: list[Report], count: int = 10) -> dict[str, list[dict]]:
    """Tables by title: parameters that differ, measurements, ``count`` texts of each run; ``""`` names a row."""
    names, published = [report.name for report in reports], find_published(reports)
    parameters = [
        {"": key, **dict(zip(names, map(format_value, values), strict=True))}
        for key, values in find_differences(reports).items()
    ]
    # Perplexities of different vocabularies have no best one
    same_vocabulary = len({_identify_vocabulary(report) for report in reports}) == 1
    remark = "" if same_vocabulary else ": bits per byte, because perplexities of different vocabularies do not compare"
    measurements = []
    for key, (name, best) in MEASUREMENTS.items():
        best = best if same_vocabulary or not key.startswith(("perplexity", "loss")) else None
        own = [report.measurement(key) for report in reports]
        others = [row.get(key) for row in published.values()]
        if any(value is not None for value in [*own, *others]):
            shown = [*mark_best(own, best), *mark_best(others, None)]
            measurements.append({"": name, **dict(zip([*names, *published], shown, strict=True))})
    texts = [
        {"": str(i + 1), **{r.name: text(r.texts[i]["text"]) if i < len(r.texts) else "" for r in reports}}
        for i in range(min(count, max(len(report.texts) for report in reports)))
    ]
    parts = {"Parameters that differ": parameters, f"Measurements{remark}": measurements, "Texts": texts}
    return {title: rows for title, rows in parts.items() if rows}


def print_comparison(comparison: dict[str, list[dict]], console: Console) -> None:
    """Prints the tables of `compare`."""
    for title, rows in comparison.items():
        table = Table(*rows[0], title=title, title_justify="left", show_lines=title == "Texts")
        for row in rows:
            table.add_row(*(Text(str(value)) for value in row.values()))
        console.print(table)


def render_comparison(comparison: dict[str, list[dict]]) -> Markup:
    """A page with the tables of `compare` that needs no other file."""
    return render("comparison.html.j2", tables=comparison, table=tables.html)


def open_reports(names: list[str]) -> list[Report]:
    """The runs of these names (RequestError if there are fewer than two, or one does not exist)."""
    if len(set(names)) < 2:
        raise RequestError(f"compare needs two runs or more, not {', '.join(names)}")
    return [Report(open_run(name).path) for name in dict.fromkeys(names)]


def read_record(name: str, folders: list[Path]) -> dict:
    """What a sweep's file adds to its page, from the first folder with a readable record.

    ``reference`` has published results (``set``, ``source``, and numbers by the names of `MEASUREMENTS`), ``plot``
    pairs of a hyperparameter or a measurement, and a measurement.
    """
    for folder in folders:
        try:
            record = json.loads((folder / "sweeps" / f"{name}.json").read_text("utf-8"))
            plots = [(str(x), y) for x, y in record.get("plot", []) if y in MEASUREMENTS]
            return {"reference": list(map(_check_published, record.get("reference", []))), "plot": plots}
        except DAMAGE:
            continue
    return {"reference": [], "plot": []}


def _check_published(row: dict) -> dict:
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return numbers | {"set": dict(row.get("set", {})), "source": str(row.get("source", "elsewhere"))}


def find_published(reports: list[Report]) -> dict[str, dict]:
    """Published results that the runs' sweeps list for values of these runs, by their source and values."""
    published = {}
    for report in reports:
        for row in read_record(report.sweep.get("name", ""), [root()])["reference"]:
            if all(report.sweep["set"].get(key) == value for key, value in row["set"].items()):
                own = ", ".join(map(format_value, row["set"].values()))
                published[f"published: {row['source']}" + (f" ({own})" if own else "")] = row
    return published


def find_differences(reports: list[Report]) -> dict[str, list[object]]:
    """Parameters that differ, ``stage.name`` or the ``name`` of a shared one, with the value of each run or None."""
    rows: dict[str, list[object]] = {}
    for position, report in enumerate(reports):
        for stage in STAGES:
            for name, value in report.record(stage)["settings"].items():
                if name not in SHARED or stage == "finetune":  # which has all of them
                    key = name if name in SHARED else f"{stage}.{name}"
                    rows.setdefault(key, [None] * len(reports))[position] = value
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def format_value(value: object) -> str:
    """A parameter's value in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def find_best(values: list[float | None], best: Callable | None) -> float:
    """The best of several measurements, by ``min`` or ``max``; NaN if all are equal."""
    known = {value for value in values if value is not None}
    return best(known) if best and len(known) > 1 else math.nan


def mark_best(values: list[float | None], best: Callable | None) -> list[str]:
    """Measurements as text, of which those that `find_best` returns are marked."""
    top = find_best(values, best)
    shown = [number(value) if value is None or value >= 10 else f"{value:.3f}" for value in values]
    return [text + BEST * (value == top) for text, value in zip(shown, values, strict=True)]


def _identify_vocabulary(report: Report) -> frozenset[tuple[str, str]]:
    """Names and digests of the tokenizer's files."""
    outputs = report.record("corpus")["outputs"]
    suffixes = (".json", ".bpe")
    return frozenset((k, v) for k, v in outputs.items() if Path(k).suffix in suffixes and "corpus.json" not in k)
