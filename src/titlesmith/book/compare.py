"""Comparisons of runs: the parameters that differ, their measurements, their texts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from titlesmith import tables
from titlesmith.book.report import SPLITS, Report
from titlesmith.errors import RequestError
from titlesmith.experiment import SHARED
from titlesmith.markup import Markup, number, render, text
from titlesmith.runs import STAGES, open_run

# Measurements of metrics.json to compare: their names in the table, and whether the lowest or highest value is best
MEASUREMENTS: dict[str, tuple[str, Callable | None]] = {
    **{f"perplexity.{split}": (f"perplexity, {split}", min) for split in SPLITS},
    "bits_per_byte.test": ("bits per byte, test", min),
    "copy_rate": ("share of copies", min),
    "near_copy_rate": ("share of near copies", min),
    "artifact_rate": ("share of artifacts", min),
    "prefix_kept_rate": ("share that keeps its prefix", max),
    "distinct_1": ("distinct words", None),
    "distinct_2": ("distinct word pairs", None),
    "self_bleu": ("self-BLEU", None),
    "ngram_novelty": ("new three-word sequences", None),
    **{f"rouge{kind}": (f"ROUGE-{kind}", max) for kind in "12L"},
    "classifier_accuracy": ("accuracy of a classifier", min),
}
BEST = " (best)"


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes
    ----------
    names
        The runs, in the requested order.
    tables
        Rows, by title: parameters, measurements, texts. The column ``""`` names the row; the others are the runs.
    remark
        Why perplexities cannot be compared; empty if they can.
    """

    names: list[str]
    tables: dict[str, list[dict]]
    remark: str

    def print(self, console: Console) -> None:
        """Prints the comparison."""
        for title, rows in self.tables.items():
            table = Table("", *self.names, title=title, title_justify="left", show_lines=title == "Texts")
            for row in rows:
                table.add_row(*(Text(str(value)) for value in row.values()))
            console.print(table)
        console.print(self.remark)

    def html(self) -> Markup:
        """A page that needs no other file."""
        title = f"{', '.join(self.names)} compared"
        shown = [(heading, tables.html(rows)) for heading, rows in self.tables.items()]
        return render("comparison.html.j2", title=title, tables=shown, remark=self.remark)


def compare(reports: list[Report], count: int = 10) -> Comparison:
    """Compares runs, with up to ``count`` texts of each."""
    names = [report.name for report in reports]
    parameters = [
        {"": key, **dict(zip(names, map(format_value, values), strict=True))}
        for key, values in find_differences(reports).items()
    ]
    # Perplexities of different vocabularies have no best one
    same_vocabulary = len({_identify_vocabulary(report) for report in reports}) == 1
    measurements = []
    for key, (name, best) in MEASUREMENTS.items():
        values = [report.measurement(key) for report in reports]
        best = best if same_vocabulary or not key.startswith("perplexity") else None
        if any(value is not None for value in values):
            measurements.append({"": name, **dict(zip(names, mark_best(values, best), strict=True))})
    texts = [
        {"": str(i + 1), **{r.name: text(r.texts[i]["text"]) if i < len(r.texts) else "" for r in reports}}
        for i in range(min(count, max(len(report.texts) for report in reports)))
    ]
    remark = "These runs have different vocabularies: compare their bits per byte, not their perplexities."
    parts = {"Parameters that differ": parameters, "Measurements": measurements, "Texts": texts}
    return Comparison(names, {title: rows for title, rows in parts.items() if rows}, "" if same_vocabulary else remark)


def open_reports(names: list[str]) -> list[Report]:
    """The runs of these names (RequestError if there are fewer than two, or one does not exist)."""
    if len(set(names)) < 2:
        raise RequestError(f"compare needs two runs or more, not {', '.join(names)}")
    return [Report(open_run(name).path) for name in dict.fromkeys(names)]


def find_differences(reports: list[Report]) -> dict[str, list[object]]:
    """Parameters that differ, ``stage.name`` or the ``name`` of a shared one, with the value of each run or None."""
    columns = []
    for report in reports:
        settings = {f"{s}.{key}": v for s in STAGES for key, v in report.record(s).get("settings", {}).items()}
        shared = {key: settings.get(f"finetune.{key}") for key in SHARED}
        columns.append(shared | {key: v for key, v in settings.items() if key.partition(".")[2] not in SHARED})
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key) for column in columns] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def format_value(value: object) -> str:
    """A parameter's value in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def mark_best(values: list[float | None], best: Callable | None) -> list[str]:
    """Measurements as text. The best ones, by ``min`` or ``max``, are marked unless all are equal."""
    known = [value for value in values if value is not None]
    top = best(known) if best and len(set(known)) > 1 else None
    shown = [number(value) if value is None or value >= 10 else f"{value:.3f}" for value in values]
    return [
        text + (BEST if value is not None and value == top else "") for text, value in zip(shown, values, strict=True)
    ]


def _identify_vocabulary(report: Report) -> frozenset[tuple[str, str]]:
    """Names and digests of the tokenizer's files."""
    outputs = report.record("corpus")["outputs"]
    suffixes = (".json", ".bpe")
    return frozenset((k, v) for k, v in outputs.items() if Path(k).suffix in suffixes and "corpus.json" not in k)
