"""A built book that all tests of this folder read, and none changes."""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nbformat
import pytest

from conftest import copy_run, shared
from titlesmith.book import build as building
from titlesmith.cli import describe_commands
from titlesmith.runs import Run, write_json

FORK = "https://github.com/someone/fork"  # its repository
CODE = "{{ cycler.__init__.__globals__.os.popen(dict(id=1)|join).read() }}.csv"
VALUES = [  # of runs by somebody else
    CODE,
    "``{ref}`boom` ``",
    "{include}`/etc/hostname`",
    "{eval-rst}",
    "$x^2$ and $$y$$",
    "[a](javascript:alert(1)) ![b](/etc/hostname)",
    "<script>alert(1)</script>",
    "**bold** _under_ `code` # 1. - +",
    "{cite}`nobody` [^1] |x| --- ~~~",
    "```{raw} html\n<script>alert(2)</script>\n```",
    "https://evil.example/x @someone",
    "\ud800 half a pair",
]
HOSTILE_CELLS = [
    "# Fine-tune {{ 7*7 }}",
    "```{include} /etc/hostname\n```",
    "```{literalinclude} /etc/hostname\n```",
    "```{eval-rst}\n.. include:: /etc/hostname\n.. raw:: html\n\n   <script>alert(3)</script>\n```",
    "```{raw} html\n<script>alert(4)</script>\n```",
    "<script>alert(5)</script>\n\n<img src=x onerror=alert(6)>\n\n{download}`/etc/hostname`",
    "![a](/etc/hostname)\n\n```{figure} /etc/hostname\n```\n\n{doc}`nowhere` {ref}`nowhere`",
    ":::{csv-table}\n:file: /etc/passwd\n:::",
]
HOSTILE_OUTPUT = {
    "text/html": "<b>kept</b><script>alert(7)</script><iframe src=//evil></iframe><a href='javascript:alert(8)'>a</a>",
    "application/javascript": "alert(9)",
    "text/markdown": "```{include} /etc/hostname\n```",
    "text/latex": "$x$",
    "image/svg+xml": "<svg onload=alert(10)></svg>",
    "image/png": "bm90IGEgcGljdHVyZQ==",
    "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
}


@dataclass
class Built:
    """A project, its built book, the names of the runs that it shows, and why others are omitted."""

    project: Path
    html: Path
    shown: list[str]
    omitted: dict[str, str]

    def text(self, page: str) -> str:
        return (self.html / page).read_text("utf-8")


def add_hostile_runs(folder: Path) -> None:
    """Runs by somebody else: two values in each, in every place that a page shows, and a notebook."""
    rows = [{"set": {}, "perplexity": {"test": 1.5}, "source": value} for value in VALUES[:-1]]
    write_json(folder / "sweeps" / "sweep-1.json", {"reference": rows})
    for number, pair in enumerate(zip(VALUES[::2], VALUES[1::2], strict=True)):
        run = copy_run(folder, f"hostile-{number}")
        model, reason = (value.encode("utf-8", "replace").decode() for value in pair)
        run.update_stage("harvest", settings=run.record("harvest")["settings"] | {"path": model, "query": reason})
        settings = run.record("finetune")["settings"] | {"model": model}
        run.update_stage("finetune", settings=settings, stop_reason=reason)
        if number % 2:
            run.update(sweep={"name": f"sweep-{number}", "set": {f"../../{reason}": reason}, "repeat": 1})
    path = Run("hostile-0").executed("finetune")
    hostile = nbformat.read(path, 4)
    cells = [nbformat.v4.new_markdown_cell(source) for source in HOSTILE_CELLS]
    output = nbformat.v4.new_output("display_data", HOSTILE_OUTPUT)
    code = nbformat.v4.new_code_cell("1", outputs=[output], metadata={"mystnb": {"figure": {"name": "x"}}})
    raw = nbformat.v4.new_raw_cell("<script>alert(11)</script>", metadata={"raw_mimetype": "text/html"})
    hostile.cells = [*cells, code, raw]
    hostile.metadata["myst"] = {"enable_extensions": ["substitution"], "substitutions": {"x": "{{ 7*7 }}"}}
    nbformat.write(hostile, path)


def build_book(finished_project: Path, outer: Path) -> None:
    """A fork with a finished run, a sweep of two, runs by others, an unfinished one, and one whose metrics were cut."""
    folder = outer / "project"
    shutil.copytree(finished_project, folder)
    config = folder / "_config.yml"
    config.write_text(config.read_text().replace('  url: ""', f"  url: {FORK}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        for number, rate in enumerate((0.001, 0.002)):
            sweep = {"name": "rates", "set": {"finetune.rate": rate}, "repeat": 1}
            copy_run(folder, f"rates-{number}").update(sweep=sweep)
        reference = {"set": {"finetune.rate": 5e-5}, "perplexity.test": 17.61, "source": "Liu and Zheng"}
        write_json(folder / "sweeps" / "rates.json", {"reference": [reference]})
        Run("unfinished").update(model="scratch")
        cut = copy_run(folder, "cut") / "metrics.json"
        cut.write_bytes(cut.read_bytes()[:40])
        add_hostile_runs(folder)
        book = building.build(describe_commands())
    result = {"shown": [report.name for report in book.shown], "omitted": book.omitted}
    (outer / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="session")
def built(finished_project, tmp_path_factory) -> Built:
    outer = shared(tmp_path_factory, "built", partial(build_book, finished_project))
    html = outer / "project" / "_build" / "html"
    return Built(outer / "project", html, **json.loads((outer / "result.json").read_text()))


@pytest.fixture
def hostile_values() -> list[str]:
    return VALUES
