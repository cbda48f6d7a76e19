"""The book: pages for every complete run, and the whole rendered by Jupyter Book."""

import os
import shutil
import subprocess
import sys
from html import escape
from importlib.util import find_spec
from pathlib import Path

import nbformat
import yaml

from titlesmith import abstracts, quiz, tables
from titlesmith.corpus import Corpus
from titlesmith.errors import StageError
from titlesmith.run import MADE_UP, STAGES, Run, notebook, replacing, root, runs


def build() -> tuple[Path, list[Run]]:
    """Builds ``_build/html`` from the pages below ``book/`` and from every complete run.

    Runs that failed or are unfinished are left out. Warnings are errors.

    Returns
    -------
    tuple
        The page to open, and the runs that the book shows, newest first.

    Raises
    ------
    StageError
        Jupyter Book found something wrong; the message shows what.
    """
    shown = [run for run in runs() if run.complete]
    pages = root() / "book" / "runs"
    for stale in {p.name for p in pages.glob("*/")} - {run.name for run in shown}:
        shutil.rmtree(pages / stale)
        shutil.rmtree(root() / "_build" / "html" / "book" / "runs" / stale, ignore_errors=True)
    for run in shown:
        write(pages / run.name / "index.md", f"# {run.name}\n\n{summary(run)}")
        for stage in STAGES:
            write(pages / run.name / notebook(stage).name, chapter(run, stage))
        write(pages / run.name / "quiz.md", quiz.page(run))
    newest = f"## The newest run: {shown[0].name}\n\n{summary(shown[0])}" if shown else "No run is complete yet."
    write(root() / "_build" / "newest.md", newest)
    write(root() / "_build" / "three-abstracts.md", abstracts.page(shown))
    toc = yaml.safe_load((root() / "_toc.yml").read_text("utf-8"))
    chapters = [
        {"file": f"{folder}/index", "sections": [{"file": f"{folder}/{p}"} for p in [*map(_stem, STAGES), "quiz"]]}
        for folder in (f"book/runs/{run.name}" for run in shown)
    ]
    toc["parts"] += [{"caption": "Runs", "chapters": chapters}] if shown else []
    write(root() / "_build" / "toc.yml", yaml.safe_dump(toc, sort_keys=False))
    mathjax = root() / "book" / "_static" / "mathjax" / "tex-svg.js"
    if not mathjax.exists():  # so that formulas show without a network
        (package,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
        with replacing(mathjax) as temporary:
            shutil.copyfile(Path(package) / "static" / "mathjax" / mathjax.name, temporary)
    start = "from jupyter_book.cli.main import main; main()"  # of this environment, whatever PATH says
    arguments = ["build", str(root()), "--toc", str(root() / "_build" / "toc.yml"), "-W", "-n", "--keep-going"]
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments], capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    log = root() / "_build" / "book.log"
    log.write_text(done.stdout + done.stderr, "utf-8")
    if done.returncode:
        # Sphinx warns only of pages that it reads anew; without what it remembers the next build warns again.
        shutil.rmtree(root() / "_build" / ".doctrees", ignore_errors=True)
        lines = (done.stdout + done.stderr).splitlines()
        wrong = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-10:]
        raise StageError("Jupyter Book failed:\n" + "\n".join(wrong[:10]) + f"\nThe whole of what it said: {log}")
    return root() / "_build" / "html" / "index.html", shown


def summary(run: Run) -> str:
    """What was trained on what, why it stopped, the key figures and ten titles, in MyST Markdown and HTML."""
    training, metrics, splits = run.record("finetune"), run.metrics, Corpus(run).info["splits"]
    perplexity = ", ".join("unknown" if p is None else f"{p:.2f}" for p in metrics["perplexity"].values())
    facts = [
        {"what": "model", "value": training["settings"]["model"]},
        {"what": "papers", "value": run.papers},
        {"what": "documents (train, valid, test)", "value": ", ".join(f"{n['documents']:,}" for n in splits.values())},
        {"what": "steps", "value": f"{training['steps']:,}"},
        {"what": "why training stopped", "value": training["stop_reason"]},
        {"what": "perplexity (train, valid, test)", "value": perplexity},
        {"what": "share of copies", "value": f"{metrics['copy_rate'] or 0:.0%} of {metrics['texts']} texts"},
    ]
    titles = "".join(f"<li>{escape(' '.join(row['text'].split()))}</li>" for row in run.texts[:10])
    return "\n".join(
        [
            f":::{{admonition}} Made-up data\n:class: warning\n{MADE_UP}\n:::\n" if run.made_up else "",
            tables.html(facts, {"what": "", "value": ""}),
            "\n**Ten generated texts**\n",
            f'<ol class="tex2jax_ignore mathjax_ignore">{titles}</ol>\n',
        ]
    )


def chapter(run: Run, stage: str) -> str:
    """An executed notebook as the book shows it: its parameters collapsed."""
    book = nbformat.read(run.executed(stage), 4)
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):  # papermill's cell; the others are marked as written
            cell.metadata |= {"tags": ["hide-input"], "mystnb": {"code_prompt_show": "Show what this run was given"}}
    return nbformat.writes(book) + "\n"


def _stem(stage: str) -> str:
    return notebook(stage).stem


def write(path: Path, text: str) -> None:
    """Writes a page only where it changed, so that Sphinx reads it again only then."""
    if not path.exists() or path.read_text("utf-8") != text:
        with replacing(path) as temporary:
            temporary.write_text(text, "utf-8")
