"""Pages of a run, the gallery of runs, the newest run on the home page, and the reference."""

import inspect
import json
import math
import re
from datetime import date
from itertools import groupby, zip_longest
from operator import itemgetter
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from titlesmith import models, plots, tables
from titlesmith.book import figures, quiz
from titlesmith.book.launch import Launch
from titlesmith.book.report import Report
from titlesmith.book.untrusted import make_inert
from titlesmith.corpus.clean import fold
from titlesmith.corpus.template import template
from titlesmith.evaluate import abstracts
from titlesmith.evaluate import report as measurements
from titlesmith.evaluate.faults import NEAR
from titlesmith.experiment import SHARED
from titlesmith.markup import Markup, myst, render
from titlesmith.runs import STAGES, notebook
from titlesmith.settings import declared

TITLES = ("Harvest", "Corpus", "Fine-tune", "Generate", "Evaluate")
NOTEBOOKS = {stage: (notebook(stage).stem, title) for stage, title in zip(STAGES, TITLES, strict=True)}
QUIZ, DAILY = "quiz.md", "daily.md"
SUB = (*(stem for stem, _ in NOTEBOOKS.values()), "quiz")  # the pages of a run after its first, in order
LATEST = 6  # runs on the home page


def render_run(report: Report, launching: Launch) -> dict[str, str]:
    """The files of a run's pages by name, without `render_index`; DAMAGE if a file of the run cannot be shown."""
    # Fail here, not on pages of several runs
    render_cards([report]), render_index(report)
    render("abstracts.md.j2", reports=list(filter(makes_titles, [report])))
    items = quiz.load_items(report)
    return {
        quiz.FILE: json.dumps(items, ensure_ascii=False) + "\n",
        QUIZ: render("quiz.md.j2", items=items, run=report),
        **{notebook(stage).name: render_notebook(report, stage, launching) for stage in STAGES},
        **render_days(report),
    }


def render_index(report: Report, newer: str = "", older: str = "", script: Path | None = None) -> Markup:
    """The first page of a run, with links to its neighbours in time, and a box if its model has a script."""
    return render(
        "run.md.j2",
        report=report,
        newer=newer,
        older=older,
        loss=render_loss(report),
        script=script,
        changed=render_changed(report),
        measurements=measurements,
        table=tables.html,
        notebooks=NOTEBOOKS,
        describe=models.describe,
        choose_best=choose_best,
    )


def render_loss(report: Report) -> Markup:
    """The figure of a run's losses."""
    first, last = (report.history[i]["loss_smoothed"] for i in (0, -1))
    alt = f"Loss against optimizer steps: smoothed training loss from {first:.1f} to {last:.1f} nats per token."
    return figures.render_figure(f"run-{report.name}-loss", alt, figures.draw_loss, report)


def render_changed(report: Report) -> Markup:
    """A table of the parameters whose values are not the defaults; empty if there are none."""
    rows = []
    for stage in STAGES:
        for name, value in report.record(stage)["settings"].items():
            default = declared(stage)[name].default if name in declared(stage) else value
            if name not in SHARED and value != default:
                default, value = (json.dumps(each, ensure_ascii=False) for each in (default, value))
                rows.append({"parameter": f"{stage}.{name}", "default": default, "this run": value})
    return tables.html(rows, empty="")


def choose_best(report: Report) -> list[dict]:
    """Rows of texts that are neither cut nor near copies: the likeliest for each first word, then the others."""
    rows = {}
    for row in report.texts:
        if row.get("finished", True) and row["text"].strip() and (row.get("nearest_similarity") or 0) < NEAR:
            rows.setdefault(fold(row["text"]), row)
    known = {text: v for text, row in rows.items() if isinstance(v := row.get("logprob"), (int, float))}
    openings: dict[str, list] = {}
    for text in sorted(rows, key=lambda text: known.get(text, -math.inf), reverse=True):
        openings.setdefault(text.split()[0], []).append(rows[text])
    return [row for group in zip_longest(*openings.values()) for row in group if row] or report.texts


def render_notebook(report: Report, stage: str, launching: Launch) -> str:
    """An executed notebook as a page: links to the other notebooks, parameters collapsed, figures with alt texts."""
    book = make_inert(report.chapter(stage), stage)
    launching.adapt(book, {stage: report.record(stage)["settings"] for stage in STAGES})
    book.metadata["orphan"] = True  # the sidebar lists no runs: with hundreds, each page would carry them all
    book.cells = _drop_empty_sections(book.cells)
    for cell in book.cells:
        # papermill adds this cell; the notebook's own cells are marked in the notebook
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata |= {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Show the parameters of this run"}}
        if plot := re.search(r"\bplots\.(\w+)\(", cell.source):
            alt = (inspect.getdoc(getattr(plots, plot[1], None)) or "A figure").split("\n")[0]
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    # Links to the run's other pages, after the title
    links = [title if name == stage else f"[{title}]({stem}.ipynb)" for name, (stem, title) in NOTEBOOKS.items()]
    source = f"[{myst(report.name)}](index.md): {' · '.join([*links, f'[Quiz]({QUIZ})'])}"
    after_title = 1 + next((i for i, cell in enumerate(book.cells) if cell.source.startswith("# ")), 0)
    book.cells.insert(after_title, new_markdown_cell(source, id="links"))
    return nbformat.writes(book)


def _drop_empty_sections(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells of a notebook without the sections whose outputs are all empty tables."""
    sections: list[list[NotebookNode]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        sections[-1].append(cell)

    def is_empty(section: list[NotebookNode]) -> bool:
        outputs = [output for cell in section for output in cell.get("outputs", ())]
        shown = [output.get("data", {}).get("text/html", "") for output in outputs]
        return bool(shown) and all('class="empty"' in html for html in shown)

    return [cell for section in sections if not is_empty(section) for cell in section]


def render_days(report: Report) -> dict[str, Markup]:
    """The pages of new papers by file name, `DAILY` with the newest day; none for a run without new papers."""
    rows = sorted((row for row in report.daily if "titles" in row), key=itemgetter("day", "id"))
    papers = {date.fromisoformat(day): list(group) for day, group in groupby(rows, key=itemgetter("day"))}
    newest = sorted(papers, reverse=True)
    days = {day: f"daily-{day}.md" if day < newest[0] else DAILY for day in newest}
    return {
        name: render(
            "daily.md.j2",
            report=report,
            categories=", ".join(report.record("harvest")["settings"]["categories"]),
            day=day,
            days=days,
            papers=papers[day],
        )
        for day, name in days.items()
    }


def render_cards(reports: list[Report]) -> Markup:
    """A card for each run: model, papers, loss curve, main measurements, the first text."""
    return render("cards.html.j2", reports=reports, draw_spark=figures.render_spark)


def choose_lead(reports: list[Report]) -> Report | None:
    """The run of the home page: the newest one of real papers, in no sweep if there is one, else of made-up ones."""
    return min(reports, key=lambda report: (report.made_up, bool(report.sweep)), default=None)


def render_home(reports: list[Report], scripts: dict[str, Path]) -> Markup:
    """The part of the home page about the run of `choose_lead`, and the latest cards."""
    report = choose_lead(reports)
    return render(
        "home.md.j2",
        report=report,
        loss=render_loss(report) if report else "",
        script=scripts.get(report.name) if report else None,
        cards=render_cards(reports[:LATEST]),
        total=len(reports),
        shown=LATEST,
        measurements=measurements,
        table=tables.html,
        notebooks=NOTEBOOKS,
        describe=models.describe,
        choose_best=choose_best,
    )


def render_parameters() -> Markup:
    """The part of the reference with a table of the parameters of each stage."""
    stages = []
    for stage in STAGES:
        rows = [
            {
                "parameter": p.name if p.name in SHARED else f"{stage}.{p.name}",
                "type": p.annotation,
                "default": repr(p.default),
                "meaning": p.help,
            }
            for p in declared(stage).values()
        ]
        stages.append((stage, notebook(stage).name, tables.html(rows)))
    return render("parameters.md.j2", stages=stages)


def render_commands(group: TyperGroup) -> str:
    """The part of the reference with a section for each command of a command line."""
    return "".join(
        get_docs_for_click(obj=command, ctx=command.context_class(command), indent=1, call_prefix="titlesmith")
        for command in group.commands.values()
    )


def makes_titles(report: Report) -> bool:
    """Whether a run is on the page of the three abstracts."""
    own = template(report.record("corpus")["settings"]["template"])
    return bool(report.metrics.get("three_abstracts")) or abstracts.makes_titles(own)
