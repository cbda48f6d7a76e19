"""Pages of a run and of the gallery, in MyST Markdown and HTML in which a generated title is text and nothing else."""

import inspect
import json
import re
from datetime import date
from html import escape

from titlesmith import plots, tables
from titlesmith.book import figures, quiz
from titlesmith.book.report import SPLITS, Report
from titlesmith.book.untrusted import inert_notebook, myst
from titlesmith.runs import MADE_UP, STAGES, notebook

NAMES = {
    "harvest": "Harvest",
    "corpus": "Corpus",
    "finetune": "Fine-tune",
    "generate": "Generate",
    "evaluate": "Evaluate",
}
QUIZ = "quiz.md"
PLAIN = 'class="tex2jax_ignore mathjax_ignore"'


def summary(report: Report) -> str:
    """What was trained on what, why it stopped, the key figures and ten titles."""
    training, splits = report.training, report.splits
    perplexity = ", ".join(number(report.figure(f"perplexity.{name}")) for name in SPLITS)
    facts = [
        {"what": "model", "value": training["settings"]["model"]},
        {"what": "papers", "value": report.source_label},
        {
            "what": "documents (train, valid, test)",
            "value": ", ".join(f"{splits[name]['documents']:,}" for name in SPLITS),
        },
        {"what": "steps", "value": f"{training['steps']:,}"},
        {"what": "why training stopped", "value": training["stop_reason"]},
        {"what": "perplexity (train, valid, test)", "value": perplexity},
        {"what": "copies of training texts", "value": share(report.figure("copy_rate"))},
    ]
    table = tables.html(facts, {"what": "", "value": ""})
    return f"{made_up(report)}\n{table}\n\n**Ten generated texts**\n\n{titles(report)}\n"


def made_up(report: Report) -> str:
    """The warning that a run of invented papers carries on every page that shows them."""
    return f"\n:::{{admonition}} Made-up data\n:class: warning\n{MADE_UP}\n:::\n" if report.made_up else ""


def titles(report: Report, count: int = 10) -> str:
    """The first generated texts, as a numbered list."""
    shown = "".join(f"<li>{escape(' '.join(row['text'].split()))}</li>" for row in report.texts[:count])
    return f"<ol {PLAIN}>{shown}</ol>\n"


def number(value: float | None) -> str:
    """A figure as people write it; a dash where it was not measured."""
    return "-" if value is None else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


def share(value: float | None) -> str:
    """A share in per cent; a dash where it was not measured."""
    return "-" if value is None else f"{100 * value:.0f}%"


def of_run(report: Report) -> dict[str, str]:
    """The files of a run's pages by name: first page, notebooks, quiz.

    Raises
    ------
    DAMAGE
        A file of the run cannot be shown.
    """
    card(report)  # the gallery shows it
    chosen = items(report)
    written = {"index.md": index(report), QUIZ: f"---\norphan: true\n---\n{quiz.page(report, chosen)}"}
    written[quiz.FILE] = json.dumps(chosen, ensure_ascii=False) + "\n"
    return written | {notebook(stage).name: chapter(report, stage) for stage in STAGES}


def index(report: Report) -> str:
    """The first page of a run."""
    links = "".join(f"1. [{NAMES[stage]}]({notebook(stage).name})\n" for stage in STAGES)
    sweep = report.sweep
    member = (
        f"It is one of the runs of the sweep [{myst(sweep['name'])}](../../sweeps/{sweep['name']}.md).\n\n"
        if sweep
        else ""
    )
    record = f"../../../runs/{report.name}"
    files = ", ".join(
        f'<a href="{record}/{f}">{f}</a>' for f in ("run.json", "history.csv", "texts.jsonl", "metrics.json")
    )
    return (
        f"---\norphan: true\n---\n# {myst(report.name)}\n\n[All runs](../../runs.md)\n\n{member}{summary(report)}\n"
        f'<figure class="run-loss">{figures.spark(report.history)}<figcaption>{CURVES}</figcaption></figure>\n\n'
        f"## The notebooks of this run\n\n{links}\n[Real or generated?]({QUIZ}) A quiz.\n\n"
        f"<p>The record of this run: {files}</p>\n"
    )


CURVES = "Loss against steps, from 0 upward: the training loss, smoothed, solid; the validation loss dashed."


def chapter(report: Report, stage: str) -> str:
    """An executed notebook as the book shows it: linked to the others, parameters collapsed, figures named."""
    book = inert_notebook(report.chapter(stage), stage)
    book["metadata"]["orphan"] = True  # the sidebar lists no runs: with hundreds, each page would carry them all
    for cell in book["cells"]:
        metadata, source = cell["metadata"], "".join(cell["source"])
        if "injected-parameters" in metadata.get("tags", []):  # papermill's cell; the others are marked as written
            metadata |= {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Show what this run was given"}}
        if drawn := re.search(r"\bplots\.(\w+)\(", source):
            what = (inspect.getdoc(getattr(plots, drawn[1], None)) or "A figure").split("\n")[0]
            metadata.setdefault("mystnb", {})["image"] = {"alt": what}
    links = [NAMES[s] if s == stage else f"[{NAMES[s]}]({notebook(s).name})" for s in STAGES] + [f"[Quiz]({QUIZ})"]
    where = {
        "cell_type": "markdown",
        "id": "where",
        "metadata": {},
        "source": f"[{myst(report.name)}](index.md): {' · '.join(links)}",
    }
    at = next((i for i, cell in enumerate(book["cells"]) if "".join(cell["source"]).startswith("# ")), 0)
    book["cells"].insert(at + 1, where)
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def items(report: Report) -> list[dict]:
    """The items of a run's quiz, chosen from its texts or as its published record keeps them."""
    if (report / quiz.FILE).is_file():  # of a published record, which has no test texts
        return [
            {"text": str(row["text"]), "real": bool(row["real"]), "note": str(row["note"])}
            for row in json.loads((report / quiz.FILE).read_text("utf-8"))[: 2 * quiz.EACH]
        ]
    return quiz.choose(report) if (report / "corpus" / "test.parquet").is_file() else []


def card(report: Report) -> str:
    """A run in the gallery."""
    training = report.training
    first = next((row["text"] for row in report.texts if row["text"].strip()), "")
    marks = (["made-up papers"] if report.made_up else []) + ([f"sweep {report.sweep['name']}"] if report.sweep else [])
    marked = "".join(f' <span class="run-mark">{escape(mark)}</span>' for mark in marks)
    facts = (
        ("perplexity, test", number(report.figure("perplexity.test"))),
        ("copies", share(report.figure("copy_rate"))),
        ("documents", f"{report.splits['train']['documents']:,}"),
        ("steps", f"{training['steps']:,}"),
    )
    listed = "".join(f"<div><dt>{what}</dt><dd>{value}</dd></div>" for what, value in facts)
    return (
        f'<li class="run-card"><h3><a href="runs/{report.name}/index.html">{escape(report.name)}</a></h3>'
        f"<p>{escape(training['settings']['model'])} on {escape(report.source_label)}, {day(report)}"
        f"{marked}</p>{figures.spark(report.history)}"
        f"<dl>{listed}</dl><blockquote>{escape(' '.join(first.split()))}</blockquote></li>"
    )


def cards(reports: list[Report]) -> str:
    """The gallery, a card a run."""
    return f'<ul class="run-cards tex2jax_ignore mathjax_ignore">{"".join(map(card, reports))}</ul>\n'


def gallery(reports: list[Report]) -> str:
    """All runs."""
    if not reports:
        return "No run is complete yet.\n"
    return f"{len(reports)} run{'s' * (len(reports) != 1)}, the newest first. {CURVES}\n\n{cards(reports)}"


def newest(reports: list[Report]) -> str:
    """What the home page says of the newest run, in one look."""
    if not reports:
        return "No run is complete yet.\n"
    report = next((r for r in reports if not r.sweep), reports[0])  # the runs of a sweep have its page
    training, documents = report.training, report.splits["train"]["documents"]
    model = training["settings"]["model"]
    small = {"scratch": "A small GPT-2 that knew nothing", "hf:scratch": "A small LLaMA that knew nothing"}
    what = small.get(model, f"The model {myst(model)}")
    epochs = report.history[-1].get("epoch")
    times = f", each {epochs:.0f} times" if epochs and epochs >= 1.5 else ""
    human = report.figure("human.ngram_novelty")
    tiles = [
        (
            number(report.figure("perplexity.test")),
            "test perplexity: among so many tokens it hesitates, where it never read the text",
        ),
        (share(report.figure("copy_rate")), "of what it wrote is a copy of a training text"),
        (
            share(report.figure("ngram_novelty")),
            "of its three-word runs are new" + (f"; people's: {share(human)}" if human is not None else ""),
        ),
        (duration(training.get("seconds")), f"of training, {training['steps']:,} steps"),
    ]
    shown = "".join(f"<li><strong>{value}</strong> <span>{escape(words)}</span></li>" for value, words in tiles)
    last = report.history[-1]
    alt = (
        f"Loss against optimizer steps for the run {report.name}. The smoothed training loss goes from "
        f"{report.history[0]['loss_smoothed']:.1f} to {last['loss_smoothed']:.1f} nats a token in "
        f"{training['steps']:,} steps; the weights of step {report.kept:,} were kept."
    )
    return "\n".join(
        [
            f"## The newest run: {myst(report.name)}\n",
            f"{what} read {documents:,} documents of **{myst(report.source_label)}**{times}, and then wrote by itself. "
            f"Training stopped because {myst(training['stop_reason'])}. "
            f"[The whole run](runs/{report.name}/index.md)\n",
            made_up(report),
            f'<ul class="key-figures">{shown}</ul>\n',
            "::::{grid} 1 1 2 2\n:::{grid-item}\n**Ten texts it wrote**\n",
            titles(report),
            ":::\n:::{grid-item}\n**How its loss fell**\n",
            figures.image("newest-loss", lambda: figures.loss(report), alt).replace(":::", "```"),
            ":::\n::::\n",
            f"## {'All' if len(reports) <= 6 else 'The latest'} runs\n",
            cards(reports[:6]),
            f"[All {len(reports)} runs](runs.md)\n" if len(reports) > 6 else "",
        ]
    )


def duration(seconds: float | None) -> str:
    """A time as people say it; a dash where it is not known."""
    if seconds is None:
        return "-"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def day(report: Report) -> str:
    """When the run was finished."""
    return date.fromisoformat(report.ended[:10]).strftime("%-d %B %Y")
