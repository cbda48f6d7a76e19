"""Runs of others: hostile values, records and notebooks, in a book that is really built."""

import base64
import json
import shutil

import nbformat
import pytest
from lxml import html as parser

from conftest import copy_run
from titlesmith import markup
from titlesmith.book import untrusted
from titlesmith.book.build import build
from titlesmith.cli import describe_commands
from titlesmith.runs import STAGES, Run, notebook, write_json

CODE = "{{ cycler.__init__.__globals__.os.popen(dict(id=1)|join).read() }}.csv"
VALUES = [
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


@pytest.fixture(scope="module")
def book(finished_project, tmp_path_factory):
    """A book of one run by somebody else, hostile in every place that a page shows."""
    folder = tmp_path_factory.mktemp("hostile") / "project"
    shutil.copytree(finished_project, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        for number, value in enumerate(VALUES):
            run = copy_run(folder, f"hostile-{number}")
            value = value.encode("utf-8", "replace").decode()
            run.update_stage("harvest", settings=run.record("harvest")["settings"] | {"path": value, "query": value})
            model = run.record("finetune")["settings"] | {"model": value}
            run.update_stage("finetune", settings=model, stop_reason=value)
            if number % 2:
                run.update(sweep={"name": f"sweep-{number}", "set": {f"../../{value}": value}, "repeat": 1})
        path = Run("small").executed("finetune")
        hostile = nbformat.read(path, 4)
        cells = [nbformat.v4.new_markdown_cell(source) for source in HOSTILE_CELLS]
        output = nbformat.v4.new_output("display_data", HOSTILE_OUTPUT)
        code = nbformat.v4.new_code_cell("1", outputs=[output], metadata={"mystnb": {"figure": {"name": "x"}}})
        raw = nbformat.v4.new_raw_cell("<script>alert(11)</script>", metadata={"raw_mimetype": "text/html"})
        hostile.cells = [*cells, code, raw]
        hostile.metadata["myst"] = {"enable_extensions": ["substitution"], "substitutions": {"x": "{{ 7*7 }}"}}
        nbformat.write(hostile, path)
        (folder / "sweeps").mkdir(exist_ok=True)
        rows = [{"set": {}, "perplexity": {"test": 1.5}, "source": value} for value in VALUES[:-1]]
        write_json(folder / "sweeps" / "sweep-1.json", {"reference": rows})
        return build(describe_commands())


def pages(book):
    return {path: path.read_text("utf-8") for path in book.page.parent.rglob("*.html") if "_static" not in str(path)}


def test_hostile_runs_are_shown(book):
    assert {f"hostile-{i}" for i in range(len(VALUES))} | {"small"} == {report.name for report in book.shown}
    assert not book.omitted


def test_nothing_in_them_is_executed_or_reads_a_file(book):
    hostname = open("/etc/hostname").read().strip()  # noqa: PTH123, SIM115
    for path, text in pages(book).items():
        tree = parser.document_fromstring(text)
        scripts = "".join(script.text or "" for script in tree.xpath("//script"))
        assert "alert(" not in scripts and "uid=" not in text, path
        assert not tree.xpath("//iframe | //@onerror | //@onload")
        assert "javascript:" not in "".join(tree.xpath("//@href"))
        assert len(hostname) < 4 or hostname not in text, path
        assert "root:x:0" not in text


def test_their_values_are_shown_literally(book):
    for number, value in enumerate(VALUES):
        page = book.page.parent / "book" / "runs" / f"hostile-{number}" / "index.html"
        text = parser.document_fromstring(page.read_text("utf-8")).text_content()
        assert markup.text(value) in markup.text(text), value


def test_a_hostile_notebook_keeps_its_text(book):
    page = (book.page.parent / "book" / "runs" / "small" / "03_finetune.html").read_text("utf-8")
    assert "Fine-tune {{ 7*7 }}" in page and "<b>kept</b>" in page and ">49<" not in page


def test_no_file_is_written_outside_the_book(book):
    folder = book.page.parents[2]
    assert not [path for path in folder.parent.iterdir() if path != folder]


def test_myst_escapes_every_ascii_punctuation_character():
    punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert markup.myst(punctuation) == "".join(f"\\{c}" for c in punctuation)
    assert markup.myst(" a\n\n b ") == "a b"


def test_the_projects_own_notebooks_stay_unchanged(finished):
    for stage in STAGES:
        executed = json.loads(finished.executed(stage).read_text("utf-8"))
        own = json.loads(notebook(stage).read_text("utf-8"))
        inert = untrusted.make_inert(executed, stage)
        texts = ["".join(cell["source"]) for cell in inert["cells"] if cell["cell_type"] == "markdown"]
        assert texts == ["".join(cell["source"]) for cell in own["cells"] if cell["cell_type"] == "markdown"]
        outputs = [output for cell in inert["cells"] for output in cell.get("outputs", [])]
        count = len([output for cell in executed["cells"] for output in cell.get("outputs", [])])
        assert len(outputs) == count


def test_a_picture_is_kept_and_anything_else_is_not():
    png = base64.b64encode(untrusted.PNG + b"x").decode()
    output = {"output_type": "display_data", "data": {"image/png": png, "image/jpeg": "x"}}
    assert untrusted._make_output_inert(output)["data"] == {"image/png": png}
    assert untrusted._make_output_inert({"output_type": "display_data", "data": {"image/png": "%"}}) is None
    widget = {untrusted.WIDGET: {"model_id": "1"}, "text/plain": "Loading weights:   0%"}
    assert untrusted._make_output_inert({"output_type": "display_data", "data": widget}) is None
