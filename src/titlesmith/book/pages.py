"""Pages of a run, the gallery of runs, and the newest run on the home page."""

import inspect
import json
import math
import re
from itertools import zip_longest
from pathlib import Path

from titlesmith import models, plots, tables
from titlesmith.book import daily, figures, quiz, writer
from titlesmith.book.report import SPLITS, Report
from titlesmith.book.untrusted import make_inert
from titlesmith.corpus.clean import fold
from titlesmith.corpus.template import template
from titlesmith.evaluate import abstracts
from titlesmith.evaluate import report as measurements
from titlesmith.evaluate.faults import NEAR
from titlesmith.experiment import SHARED
from titlesmith.markup import Markup, day, duration, myst, number, percent, render
from titlesmith.runs import MADE_UP, STAGES, notebook
from titlesmith.settings import declared

STAGE_TITLES = dict(zip(STAGES, ("Harvest", "Corpus", "Fine-tune", "Generate", "Evaluate"), strict=True))
QUIZ = "quiz.md"
SUB = (*(notebook(stage).stem for stage in STAGES), "quiz")  # the pages of a run after its first, in order
CURVES = "Loss against steps, from 0 upward: the smoothed training loss solid, the validation loss dashed."
LATEST = 6  # runs on the home page
RULE = "The likeliest texts (log-probability per token) with different first words; no near copies or cut texts."
DOES = ("collects papers", "makes documents", "trains the model", "writes texts", "measures them")  # each notebook
WHAT = {
    "perplexity": "perplexity of unread validation texts",
    "bits_per_byte": "their bits per byte",
    "ngram_novelty": "three-word sequences that no training text has",
    "words_mean": "words in a text",
    "classifier_accuracy": "texts that a classifier tells apart (50% is a guess)",
}
RECORD = ("run.json", "history.csv", "texts.jsonl", "metrics.json")  # files that a run's page links


def render_run(report: Report) -> dict[str, str]:
    """The files of a run's pages by name: notebooks, quiz, new papers of the last days. The first is `render_index`.

    Raises
    ------
    DAMAGE
        A file of the run cannot be shown.
    """
    render_cards([report]), render_index(report)  # fail here, not on pages of several runs
    items = quiz.load_items(report)
    return {
        quiz.FILE: json.dumps(items, ensure_ascii=False) + "\n",
        QUIZ: quiz.render_quiz(report, items),
        **{notebook(stage).name: render_notebook(report, stage) for stage in STAGES},
        **daily.render_days(report),
    }


def render_index(report: Report, newer: str = "", older: str = "", script: Path | None = None) -> Markup:
    """The first page of a run, with links to its neighbours in time, and a box if its model has a script."""
    model, label = report.training["settings"]["model"], report.source_label
    versions = report.info.get("versions")
    return render(
        "run.md.j2",
        report=report,
        newer=newer,
        older=older,
        description=f"What {models.describe(model)} wrote after training on {label}, its losses and its settings.",
        warning=choose_warning(report),
        facts=render_facts(report),
        texts=render_texts(report),
        rule=RULE,
        writer=writer.render_writer(report, script, "../../..") if script else "",
        app=not script and bool(report.training["outputs"]),
        loss=render_loss(report, f"run-{report.name}-loss"),
        comparison=render_comparison(report),
        samples=tables.html(measurements.texts_before_after(report.metrics), empty=""),
        changed=render_changed(report),
        times=render_times(report),
        files=render(
            "run_files.html.j2",
            run=report.name,
            files=RECORD,
            environment=[
                report.training.get("device") or "unknown device",
                *(f"{name} {version}" for name, version in (versions.items() if isinstance(versions, dict) else ())),
            ],
        ),
    )


def render_facts(report: Report) -> Markup:
    """A table of the model, its papers, why training stopped, and the main measurements."""
    training, perplexities = report.training, [report.measurement(f"perplexity.{name}") for name in SPLITS]
    model = training["settings"]["model"]
    values = {
        "model": models.describe(model).removeprefix("the model ") if model in models.PUBLISHED else model,
        "papers": report.source_label,
        "documents (train, valid, test)": ", ".join(f"{report.splits[name]['documents']:,}" for name in SPLITS),
        "steps": f"{training['steps']:,}; the weights of step {report.kept:,} were kept",
        "why training stopped": training["stop_reason"],
        "perplexity (train, valid, test)": ", ".join(map(number, perplexities)),
        "copies of training texts": percent(report.measurement("copy_rate")),
    }
    return tables.html([{"what": key, "value": value} for key, value in values.items()], {"what": "", "value": ""})


def render_changed(report: Report) -> Markup | str:
    """A table of the parameters whose values are not the defaults; empty if there are none."""
    rows = {}
    for stage in STAGES:
        for name, value in report.record(stage)["settings"].items():
            parameter = declared(stage).get(name)
            if name not in SHARED and parameter and parameter.default != value:
                default, value = (json.dumps(each, ensure_ascii=False) for each in (parameter.default, value))
                rows[f"{stage}.{name}"] = {"default": default, "this run": value}
    return tables.html([{"parameter": key} | row for key, row in rows.items()], empty="") if rows else ""


def render_times(report: Report) -> Markup:
    """A table of the stages, with links to their notebooks: when they ended and how long they took."""
    rows = []
    for stage, title in STAGE_TITLES.items():
        record = report.record(stage)
        link = Markup('<a href="{}.html">{}</a>').format(notebook(stage).stem, title)
        rows.append({"notebook": link, "ended": day(record["ended"]), "time": duration(record.get("seconds"))})
    return tables.html(rows)


def render_loss(report: Report, name: str) -> Markup:
    """The figure of a run's losses."""
    last = report.history[-1]
    alt = (
        f"Loss against optimizer steps for the run {report.name}. The smoothed training loss falls from "
        f"{report.history[0]['loss_smoothed']:.1f} to {last['loss_smoothed']:.1f} nats per token in "
        f"{report.training['steps']:,} steps; the weights of step {report.kept:,} were kept."
    )
    return figures.render_figure(name, lambda: figures.draw_loss(report), alt, report.training["fingerprint"])


def render_comparison(report: Report) -> Markup:
    """A table of measurements before training, after it, and of texts by people; unknown ones are not shown."""
    people = "the sample grammar" if report.made_up else "people"
    rows = []
    for name, shown, before_too in (
        ("perplexity", number, True),
        ("bits_per_byte", number, True),
        ("copy_rate", percent, False),
        ("ngram_novelty", percent, False),
        ("words_mean", number, False),
        ("classifier_accuracy", percent, False),
        ("reference_bits_per_byte", number, False),
    ):
        keys = ("before.", "after.", "") if before_too else ("", "", "human.")
        values = [report.measurement(f"{key}{name}") if key or i else None for i, key in enumerate(keys)]
        before, after, human = (None if value is None else shown(value) for value in values)
        if after:
            label = WHAT.get(name, measurements.NAMES[name])
            rows.append({"measure": label, "before training": before, "after training": after, people: human})
    return tables.html(rows)


def choose_warning(report: Report) -> str:
    """The warning on every page about a run of made-up papers; empty for other runs."""
    return MADE_UP if report.made_up else ""


def render_texts(report: Report, count: int = 10) -> Markup:
    """The texts of `choose_best`, as a numbered list."""
    return render("texts.html.j2", texts=[row["text"] for row in choose_best(report)[:count]])


def choose_best(report: Report) -> list[dict]:
    """The rows of the generated texts, ordered by `RULE`; those without a log-probability last."""
    rows = {}
    for row in report.texts:
        if row.get("finished", True) and row["text"].strip() and (row.get("nearest_similarity") or 0) < NEAR:
            rows.setdefault(fold(row["text"]), row)
    known = {text: v for text, row in rows.items() if isinstance(v := row.get("logprob"), (int, float))}
    openings: dict[str, list] = {}
    for text in sorted(rows, key=lambda text: known.get(text, -math.inf), reverse=True):
        openings.setdefault(text.split()[0], []).append(rows[text])
    return [row for group in zip_longest(*openings.values()) for row in group if row] or report.texts


def render_notebook(report: Report, stage: str) -> str:
    """An executed notebook as a page: links to the other notebooks, parameters collapsed, figures with alt texts."""
    book = make_inert(report.chapter(stage), stage)
    book["metadata"]["orphan"] = True  # the sidebar lists no runs: with hundreds, each page would carry them all
    book["cells"] = _drop_empty_sections(book["cells"])
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


def _drop_empty_sections(cells: list[dict]) -> list[dict]:
    """The cells of a notebook without the sections whose outputs are all empty tables."""
    sections: list[list[dict]] = [[]]
    for cell in cells:
        if cell["cell_type"] == "markdown" and re.match("## ", "".join(cell["source"])):
            sections.append([])
        sections[-1].append(cell)

    def is_empty(section: list[dict]) -> bool:
        outputs = [output for cell in section for output in cell.get("outputs", ())]
        return bool(outputs) and all(
            'class="empty"' in output.get("data", {}).get("text/html", "") for output in outputs
        )

    return [cell for section in sections if not is_empty(section) for cell in section]


def render_cards(reports: list[Report]) -> Markup:
    """A card for each run: model, papers, loss curve, main measurements, the first text."""
    first_texts = [next((row["text"] for row in report.texts if row["text"].strip()), "") for report in reports]
    curves = [figures.render_spark(report.history) for report in reports]
    return render("cards.html.j2", cards=list(zip(reports, curves, first_texts, strict=True)))


def render_gallery(reports: list[Report]) -> Markup:
    """The part of the page of runs: the cards of all runs."""
    return render("gallery.md.j2", reports=reports, caption=CURVES, cards=render_cards(reports))


def choose_lead(reports: list[Report]) -> Report | None:
    """The run of the home page: the newest one of real papers, in no sweep if there is one, else of made-up ones."""
    return min(reports, key=lambda report: (report.made_up, bool(report.sweep)), default=None)


def render_home(reports: list[Report], scripts: dict[str, Path]) -> Markup:
    """The part of the home page about the run of `choose_lead`, and the latest cards."""
    report = choose_lead(reports)
    pages_ = [f"runs/{report.name}/{notebook(stage).stem}.html" if report else "" for stage in STAGES]
    flow = render("flow.html.j2", steps=list(zip(STAGE_TITLES.values(), DOES, pages_, strict=True)))
    if not report:
        return render("home.md.j2", flow=flow, report=None)
    model, epochs = models.describe(report.training["settings"]["model"]), report.history[-1].get("epoch") or 0
    script = scripts.get(report.name)
    return render(
        "home.md.j2",
        flow=flow,
        report=report,
        lead=render(
            "lead.html.j2",
            report=report,
            model=model[0].upper() + model[1:],
            epochs=f"{epochs:.0f}" if epochs >= 1.5 else "",
            texts=render_texts(report, 8),
            rule=RULE,
            before=report.measurement("before.perplexity"),
            after=report.measurement("after.perplexity"),
        ),
        warning=choose_warning(report),
        writer=writer.render_writer(report, script, "..") if script else "",
        comparison=render_comparison(report),
        samples=tables.html(measurements.texts_before_after(report.metrics), empty=""),
        loss=render_loss(report, f"run-{report.name}-loss"),
        cards=render_cards(reports[:LATEST]),
        total=len(reports),
        shown=LATEST,
    )


def has_abstracts(reports: list[Report]) -> bool:
    """Whether the page of the three abstracts has content."""
    return any(map(_makes_titles, reports))


def _makes_titles(report: Report) -> bool:
    return bool(report.metrics.get("three_abstracts")) or abstracts.makes_titles(
        template(report.record("corpus")["settings"]["template"])
    )


def render_three_abstracts(reports: list[Report]) -> Markup:
    """The titles that runs generated for the three abstracts, and the runs that could generate them."""
    runs = []
    for report in reports:
        rows = [
            {"real title": row["title"], "titles by the model": " / ".join(row["titles"]) or row["why"]}
            for row in report.metrics.get("three_abstracts") or ()
        ]
        if _makes_titles(report):
            runs.append((report.name, tables.html(rows) if rows else ""))
    return render("abstracts.md.j2", runs=runs)
