"""Pages of a run, the gallery of runs, and the newest run on the home page."""

import inspect
import json
import re

from titlesmith import models, plots, tables
from titlesmith.book import daily, figures, quiz
from titlesmith.book.report import SPLITS, Report
from titlesmith.book.untrusted import make_inert
from titlesmith.corpus.template import template
from titlesmith.evaluate import abstracts
from titlesmith.evaluate import report as measurements
from titlesmith.markup import Markup, myst, number, percent, render
from titlesmith.runs import MADE_UP, STAGES, notebook

STAGE_TITLES = dict(zip(STAGES, ("Harvest", "Corpus", "Fine-tune", "Generate", "Evaluate"), strict=True))
QUIZ = "quiz.md"
CURVES = "Loss against steps, from 0 upward: the smoothed training loss solid, the validation loss dashed."
LATEST = 6  # runs on the home page
RECORD = ("run.json", "history.csv", "texts.jsonl", "metrics.json")  # files that a run's page links


def render_run(report: Report) -> dict[str, str]:
    """The files of a run's pages by name: first page, notebooks, quiz, new papers of the last days.

    Raises
    ------
    DAMAGE
        A file of the run cannot be shown.
    """
    render_cards([report]), render_before_after(report)  # fail here, not on pages of several runs
    items = quiz.load_items(report)
    return {
        "index.md": render_index(report),
        quiz.FILE: json.dumps(items, ensure_ascii=False) + "\n",
        QUIZ: quiz.render_quiz(report, items),
        **{notebook(stage).name: render_notebook(report, stage) for stage in STAGES},
        **daily.render_days(report),
    }


def render_index(report: Report) -> Markup:
    """The first page of a run."""
    return render(
        "run.md.j2",
        report=report,
        warning=choose_warning(report),
        facts=render_facts(report),
        texts=render_texts(report),
        curve=render("run_curve.html.j2", spark=figures.render_spark(report.history), caption=CURVES),
        notebooks=[(title, notebook(stage).name) for stage, title in STAGE_TITLES.items()],
        files=render("run_files.html.j2", run=report.name, files=RECORD),
    )


def render_facts(report: Report) -> Markup:
    """A table of the model, its papers, why training stopped, and the main measurements."""
    training, perplexities = report.training, [report.measurement(f"perplexity.{name}") for name in SPLITS]
    model = training["settings"]["model"]
    values = {
        "model": models.describe(model).removeprefix("the model ") if model in models.PUBLISHED else model,
        "papers": report.source_label,
        "documents (train, valid, test)": ", ".join(f"{report.splits[name]['documents']:,}" for name in SPLITS),
        "steps": f"{training['steps']:,}",
        "why training stopped": training["stop_reason"],
        "perplexity (train, valid, test)": ", ".join(map(number, perplexities)),
        "copies of training texts": percent(report.measurement("copy_rate")),
    }
    return tables.html([{"what": key, "value": value} for key, value in values.items()], {"what": "", "value": ""})


def choose_warning(report: Report) -> str:
    """The warning on every page about a run of made-up papers; empty for other runs."""
    return MADE_UP if report.made_up else ""


def render_texts(report: Report, count: int = 10) -> Markup:
    """The first generated texts, as a numbered list."""
    return render("texts.html.j2", texts=[row["text"] for row in report.texts[:count]])


def render_notebook(report: Report, stage: str) -> str:
    """An executed notebook as a page: links to the other notebooks, parameters collapsed, figures with alt texts."""
    book = make_inert(report.chapter(stage), stage)
    book["metadata"]["orphan"] = True  # the sidebar lists no runs: with hundreds, each page would carry them all
    for cell in book["cells"]:
        metadata, source = cell["metadata"], "".join(cell["source"])
        # papermill adds this cell; the notebook's own cells are marked in the notebook
        if "injected-parameters" in metadata.get("tags", []):
            metadata |= {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Show the parameters of this run"}}
        if plot := re.search(r"\bplots\.(\w+)\(", source):
            alt = (inspect.getdoc(getattr(plots, plot[1], None)) or "A figure").split("\n")[0]
            metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    # Links to the run's other pages, after the title
    titles = STAGE_TITLES.items()
    links = [title if name == stage else f"[{title}]({notebook(name).name})" for name, title in titles]
    links.append(f"[Quiz]({QUIZ})")
    source = f"[{myst(report.name)}](index.md): {' · '.join(links)}"
    title = next((i for i, cell in enumerate(book["cells"]) if "".join(cell["source"]).startswith("# ")), 0)
    book["cells"].insert(title + 1, {"cell_type": "markdown", "id": "links", "metadata": {}, "source": source})
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def render_before_after(report: Report) -> Markup:
    """Measurements and texts of the model before training and after; empty for a run that has none before."""
    rows, pairs = measurements.before_after(report.metrics), measurements.texts_before_after(report.metrics)
    return render("before_after.md.j2", rows=tables.html(rows), texts=tables.html(pairs)) if rows else Markup()


def render_cards(reports: list[Report]) -> Markup:
    """A card for each run: model, papers, loss curve, main measurements, the first text."""
    first_texts = [next((row["text"] for row in report.texts if row["text"].strip()), "") for report in reports]
    curves = [figures.render_spark(report.history) for report in reports]
    return render("cards.html.j2", cards=list(zip(reports, curves, first_texts, strict=True)))


def render_gallery(reports: list[Report]) -> Markup:
    """The part of the page of runs: the cards of all runs."""
    return render("gallery.md.j2", reports=reports, caption=CURVES, cards=render_cards(reports))


def render_newest(reports: list[Report]) -> Markup:
    """The part of the home page about the newest run that is in no sweep, else the newest run, and the latest cards."""
    report = next((r for r in reports if not r.sweep), reports[0] if reports else None)
    if not report:
        return render("newest.md.j2", report=None)
    training, last = report.training, report.history[-1]
    model, epochs = models.describe(training["settings"]["model"]), last.get("epoch") or 0
    alt = (
        f"Loss against optimizer steps for the run {report.name}. The smoothed training loss falls from "
        f"{report.history[0]['loss_smoothed']:.1f} to {last['loss_smoothed']:.1f} nats per token in "
        f"{training['steps']:,} steps; the weights of step {report.kept:,} were kept."
    )
    return render(
        "newest.md.j2",
        report=report,
        model=model[0].upper() + model[1:],
        epochs=f"{epochs:.0f}" if epochs >= 1.5 else "",
        warning=choose_warning(report),
        tiles=render("tiles.html.j2", report=report, human=report.measurement("human.ngram_novelty")),
        texts=render_texts(report),
        before_after=render_before_after(report),
        loss=figures.render_figure("newest-loss", lambda: figures.draw_loss(report), alt),
        cards=render_cards(reports[:LATEST]),
        total=len(reports),
        shown=LATEST,
    )


def render_three_abstracts(reports: list[Report]) -> Markup:
    """The titles that runs generated for the three abstracts, and the runs that could generate them."""
    runs = []
    for report in reports:
        rows = [
            {"real title": row["title"], "titles by the model": " / ".join(row["titles"]) or row["why"]}
            for row in report.metrics.get("three_abstracts") or ()
        ]
        if rows or abstracts.makes_titles(template(report.record("corpus")["settings"]["template"])):
            runs.append((report.name, tables.html(rows) if rows else ""))
    return render("abstracts.md.j2", runs=runs)
