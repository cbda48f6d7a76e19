"""Runs side by side: the parameters in which they differ, their figures, their texts."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from titlesmith import tables
from titlesmith.book import pages
from titlesmith.book.report import SPLITS, Report
from titlesmith.errors import RequestError
from titlesmith.experiment import SHARED
from titlesmith.runs import STAGES, existing

# The figures of metrics.json that are compared: what they are called, and which is the best
MEASURES = {
    **{f"perplexity.{split}": (f"perplexity, {split}", min) for split in SPLITS},
    "copy_rate": ("share of copies", min),
    "near_copy_rate": ("share of near copies", min),
    "artifact_rate": ("share of artifacts", min),
    "prefix_kept_rate": ("share that keeps its prefix", max),
    "distinct_1": ("distinct words", None),
    "distinct_2": ("distinct word pairs", None),
    "self_bleu": ("self-BLEU", None),
    "ngram_novelty": ("new three-word runs", None),
    **{f"rouge{kind}": (f"ROUGE-{kind}", max) for kind in "12L"},
}
BEST = " (best)"


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes
    ----------
    names
        Of the runs, in the order asked for.
    parameters, figures, texts
        Rows, whose first column ``""`` says what the row is; the others are the runs' names.
    remark
        Why perplexities do not compare; empty where they do.
    """

    names: list[str]
    parameters: list[dict]
    figures: list[dict]
    texts: list[dict]
    remark: str

    def print(self, console: Console) -> None:
        """Prints the comparison on a terminal, or as plain text where there is none."""
        for title, rows in self._tables():
            table = Table("", *self.names, title=title, title_justify="left", show_lines=title == "Texts")
            for row in rows:
                table.add_row(*(Text(str(value)) for value in row.values()))
            console.print(table)
        console.print(self.remark)

    def html(self) -> str:
        """A page of its own, which needs no other file."""
        title = escape(f"{', '.join(self.names)} compared")
        body = "".join(f"<h2>{title}</h2>{tables.html(rows)}" for title, rows in self._tables())
        return (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
            "body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
            "td,th{border-bottom:1px solid #8886}</style></head>"
            f"<body><main><h1>{title}</h1>{body}<p>{escape(self.remark)}</p></main></body></html>\n"
        )

    def _tables(self) -> list[tuple[str, list[dict]]]:
        found = [("Parameters that differ", self.parameters), ("Figures", self.figures), ("Texts", self.texts)]
        return [(title, rows) for title, rows in found if rows]


def compare(chosen: list[Report], count: int = 10) -> Comparison:
    """Compares runs; ``count`` texts of each."""
    names = [report.name for report in chosen]
    parameters = [
        {"": key, **dict(zip(names, map(written, values), strict=True))} for key, values in differing(chosen).items()
    ]
    alike = len({_vocabulary(report) for report in chosen}) == 1
    figures = []
    for key, (name, best) in MEASURES.items():
        values = [report.figure(key) for report in chosen]
        if any(value is not None for value in values):
            best = best if alike or not key.startswith("perplexity") else None
            figures.append({"": name, **dict(zip(names, marked(values, best), strict=True))})
    texts = [
        {"": str(i + 1), **{r.name: " ".join(r.texts[i]["text"].split()) if i < len(r.texts) else "" for r in chosen}}
        for i in range(min(count, max(len(report.texts) for report in chosen)))
    ]
    remark = "" if alike else "These runs read different vocabularies, so that their perplexities do not compare."
    return Comparison(names, parameters, figures, texts, remark)


def find(names: list[str]) -> list[Report]:
    """The runs of these names (RequestError where there is no such run or only one)."""
    if len(set(names)) < 2:
        raise RequestError(f"compare needs two runs or more, not {', '.join(names)}")
    return [Report(existing(name).path) for name in dict.fromkeys(names)]


def settings(report: Report) -> dict[str, object]:
    """All parameters of a run by ``stage.name``; those that stages share by their names alone."""
    found = {f"{s}.{key}": value for s in STAGES for key, value in report.record(s).get("settings", {}).items()}
    shared = {key: found.get(f"finetune.{key}") for key in SHARED}
    return shared | {k: v for k, v in found.items() if k.partition(".")[2] not in SHARED}


def differing(chosen: list[Report]) -> dict[str, list[object]]:
    """The parameters that are not the same in all runs: their values, run by run; None where a run has none."""
    all_of = list(map(settings, chosen))
    keys = dict.fromkeys(key for found in all_of for key in found)
    columns = {key: [found.get(key) for found in all_of] for key in keys}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def written(value: object) -> str:
    """A parameter's value as a table shows it."""
    if value is None:
        return "-"
    return (
        f"{value:g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def marked(values: list[float | None], best) -> list[str]:
    """Figures as text, the best ones marked in words, unless all are equal."""
    known = [value for value in values if value is not None]
    top = best(known) if best and len(set(known)) > 1 else None
    return [_figure(value) + (BEST if value is not None and value == top else "") for value in values]


def _figure(value: float | None) -> str:
    return pages.number(value) if value is None or value >= 10 else f"{value:.3f}"


def _vocabulary(report: Report) -> str:
    made = report.record("corpus")["outputs"]
    return str(
        {
            name: digest
            for name, digest in made.items()
            if Path(name).suffix in (".json", ".bpe") and "corpus.json" not in name
        }
    )
