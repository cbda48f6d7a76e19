"""Runs of others: hostile values, records and notebooks, in a book that is really built."""

import base64

import nbformat
from lxml import html as parser

from titlesmith import markup
from titlesmith.book import untrusted
from titlesmith.runs import STAGES, notebook


def pages(built):
    return {path: path.read_text("utf-8") for path in built.html.rglob("*.html") if "_static" not in str(path)}


def test_nothing_in_them_is_executed_or_reads_a_file(built):
    hostname = open("/etc/hostname").read().strip()  # noqa: PTH123, SIM115
    for path, text in pages(built).items():
        tree = parser.document_fromstring(text)
        scripts = "".join(script.text or "" for script in tree.xpath("//script"))
        assert "alert(" not in scripts and "uid=" not in text, path
        assert not tree.xpath("//iframe | //@onerror | //@onload")
        assert "javascript:" not in "".join(tree.xpath("//@href"))
        assert len(hostname) < 4 or hostname not in text, path
        assert "root:x:0" not in text


def test_their_values_are_shown_literally(built, hostile_values):
    for number, value in enumerate(hostile_values):
        page = built.text(f"book/runs/hostile-{number // 2}/index.html")
        text = parser.document_fromstring(page).text_content()
        assert markup.text(value) in markup.text(text), value


def test_a_hostile_notebook_keeps_its_text(built):
    page = built.text("book/runs/hostile-0/03_finetune.html")
    assert "Fine-tune {{ 7*7 }}" in page and "<b>kept</b>" in page and ">49<" not in page


def test_no_file_is_written_outside_the_book(built):
    assert {path.name for path in built.project.parent.iterdir()} == {"project", "result.json"}


def test_myst_escapes_every_ascii_punctuation_character():
    punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    assert markup.myst(punctuation) == "".join(f"\\{c}" for c in punctuation)
    assert markup.myst(" a\n\n b ") == "a b"


def test_the_projects_own_notebooks_stay_unchanged(finished):
    for stage in STAGES:
        executed, own = (nbformat.read(path, 4) for path in (finished.executed(stage), notebook(stage)))
        inert = untrusted.make_inert(executed, stage)
        texts = [cell.source for cell in inert.cells if cell.cell_type == "markdown"]
        assert texts == [cell.source for cell in own.cells if cell.cell_type == "markdown"]
        outputs = [output for cell in inert.cells for output in cell.get("outputs", [])]
        assert len(outputs) == len([output for cell in executed.cells for output in cell.get("outputs", [])])


def test_a_picture_is_kept_and_anything_else_is_not():
    def make(data):
        return untrusted._make_output_inert(nbformat.from_dict({"output_type": "display_data", "data": data}))

    png = base64.b64encode(untrusted.PNG + b"x").decode()
    assert make({"image/png": png, "image/jpeg": "x"}).data == {"image/png": png}
    assert make({"image/png": "%"}) is None
    assert make({untrusted.WIDGET: {"model_id": "1"}, "text/plain": "Loading weights:   0%"}) is None
