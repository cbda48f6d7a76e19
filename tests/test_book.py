import re

import pytest

from conftest import HOSTILE
from titlesmith.book import build, summary
from titlesmith.errors import StageError
from titlesmith.run import STAGES, Run, notebook


@pytest.fixture(scope="module")
def html(finished_project):
    """The built book of the finished project, beside an unfinished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(finished_project))
        Run("unfinished").update(model="scratch")
        page, shown = build()
    assert [run.name for run in shown] == ["small"]
    return page.parent


def text(html, page: str) -> str:
    return (html / page).read_text("utf-8")


def test_every_chapter_is_there_and_unfinished_runs_are_not(html):
    for stage in STAGES:
        assert (html / "book" / "runs" / "small" / f"{notebook(stage).stem}.html").is_file()
    home = text(html, "book/index.html")
    assert "The newest run: small" in home and "all 6 steps were done" in home
    assert not list(html.rglob("*unfinished*"))
    assert "unfinished" not in home


def test_titles_are_text_on_every_page(html):
    assert not [page for page in html.rglob("*.html") if "<script>alert" in page.read_text("utf-8")]
    for page in ("01_harvest", "04_generate"):
        shown = text(html, f"book/runs/small/{page}.html")
        assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in shown
        assert "mathjax_ignore" in shown


def test_nothing_is_fetched_from_elsewhere(html):
    for page in html.rglob("*.html"):
        content = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?://[^\"]*)", content)
        assert not fetched, (page, fetched)
    assert (html / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1e6
    assert "mathjax/tex-svg.js" in text(html, "book/method.html")


def test_parameters_and_imports_are_collapsed_and_progress_is_left_out(html):
    page = text(html, "book/runs/small/03_finetune.html")
    for words in ("Show the parameters and their defaults", "Show what this run was given", "Show the imports"):
        assert words in page
    assert "google.colab" not in page
    assert "stderr" not in page and "Traceback" not in page


def test_a_page_of_a_run_shows_text_as_text_and_labels_made_up_papers(finished, monkeypatch):
    assert "made up" not in summary(finished)
    monkeypatch.setattr(Run, "made_up", True)
    monkeypatch.setattr(Run, "texts", [{"text": f"{HOSTILE}\n\n# [a](nowhere.md)"}])
    shown = summary(finished)
    assert "The papers of this run are made up" in shown
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "\n# [a]" not in shown


def test_a_page_with_a_fault_fails_the_build_and_says_where(finished_project, html, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(finished_project))
    page = finished_project / "book" / "method.md"
    good = page.read_text("utf-8")
    page.write_text(good + "\n[](nowhere.md)\n", "utf-8")
    for _ in range(2):  # Sphinx warns only of pages that it reads anew
        with pytest.raises(StageError, match=r"method\.md.*nowhere"):
            build()
    page.write_text(good, "utf-8")
    build()
