import importlib.util
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from lxml import etree

from browser import axe, chromium, faults
from conftest import HOSTILE, ROOT
from titlesmith.book import build as building
from titlesmith.book import figures, pages
from titlesmith.book.build import pack
from titlesmith.book.report import Report
from titlesmith.cli import describe_commands
from titlesmith.errors import RunError, StageError
from titlesmith.runs import STAGES, notebook

KINDS = [
    "book/index.html",
    "book/runs.html",
    "book/explained.html",
    "book/method.html",
    "book/commands.html",
    "book/parameters.html",
    "book/bibliography.html",
    "book/sweeps/rates.html",
    "book/runs/small/index.html",
    "book/runs/small/quiz.html",
    "book/runs/small/03_finetune.html",
    "book/runs/small/05_evaluate.html",
    "search.html",
]


@pytest.fixture(scope="module")
def project(finished_project, tmp_path_factory):
    """A project with one finished run, whose book tests build again."""
    folder = tmp_path_factory.mktemp("project") / "project"
    shutil.copytree(finished_project, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        build()
    return folder


@pytest.fixture
def html(built):
    """The book that all tests read."""
    return built.html


def build():
    return building.build(describe_commands())


@pytest.fixture(scope="module")
def check():
    """The checks of the built book in CI."""
    spec = importlib.util.spec_from_file_location("check_book", ROOT / ".ci" / "check_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(html, page: str) -> str:
    return (html / page).read_text("utf-8")


def test_finished_runs_have_every_chapter_and_unfinished_runs_have_none(built, html):
    assert set(built.shown) == {"small", "rates-0", "rates-1", *(f"hostile-{i}" for i in range(6))}
    assert set(built.omitted) == {"unfinished", "cut"}
    for stage in STAGES:
        assert (html / "book" / "runs" / "small" / f"{notebook(stage).stem}.html").is_file()
    home = text(html, "book/index.html")
    assert "A small GPT-2 with random weights read 108 documents" in home
    assert "Written by the run" in home and ">Take the quiz</a>" in home
    assert "Before and after training" in home and ">before</th>" in home and ">by people</th>" in home
    assert not list(html.rglob("*unfinished*"))
    assert "unfinished" not in home


def test_a_run_has_a_box_a_loss_figure_its_changes_times_and_neighbours(html):
    page = text(html, "book/runs/rates-0/index.html")
    assert 'data-model="../../../runs/rates-0/model.js"' in page and (html / "runs/rates-0/model.js").is_file()
    assert 'data-model="../runs/small/model.js"' in text(html, "book/index.html"), "a run in no sweep leads"
    assert re.search(r'<img alt="Loss against optimizer steps', page)
    for words in (">finetune.batch_size</td>", ">16</td>", "tensorflow 2", "Newer: ", ">Fine-tune</span></a>"):
        assert words in page, words
    assert 'href="index.html"' in text(html, "book/runs/rates-0/quiz.html").split("<article")[1]
    assert 'href="runs/small/index.html"' in text(html, "book/index.html").split("<article")[0], "the sidebar has it"
    assert "Three abstracts" not in text(html, "book/index.html")


def test_a_feed_and_previews_name_the_runs(html):
    feed = etree.fromstring((html / "feed.xml").read_bytes())
    atom = {"a": "http://www.w3.org/2005/Atom"}
    links = feed.xpath("//a:entry/a:link/@href", namespaces=atom)
    assert "https://someone.github.io/fork/book/runs/small/index.html" in links and len(links) == 9
    page = text(html, "book/runs/small/index.html")
    assert '<link rel="alternate" type="application/atom+xml" title="Runs" href="../../../feed.xml">' in page
    assert '<meta name="viewport"' in page and "&lt;meta" not in page
    assert page.count('name="description"') == 1 and "What a small GPT-2" in page
    assert '<meta property="og:image" content="https://someone.github.io/fork/_static/preview.png">' in page
    assert (html / "_static" / "preview.png").read_bytes()[1:4] == b"PNG"
    assert '<a href="https://arxiv.org/abs/2001.' in text(html, "book/runs/small/01_harvest.html")


def test_categories_are_not_linked_as_hosts(html):
    pages = {path.name: path.read_text("utf-8") for path in (html / "book").glob("*.html")}
    assert "eess.AS" in pages["models.html"]
    links = {link for page in pages.values() for link in re.findall(r'href="http://([^"]*)"', page)}
    assert all(link.startswith("127.0.0.1") for link in links)


def test_pages_are_small(html):
    page = text(html, "book/index.html")
    needed = {"book/index.html", *(found[3:] for found in re.findall(r'(?:src|href)="(\.\./_[^"?]*)', page))}
    fonts = [f"_static/vendor/fontawesome/*/webfonts/fa-{name}.woff2" for name in ("solid-900", "brands-400")]
    needed |= {path.relative_to(html).as_posix() for name in fonts for path in html.glob(name)}
    assert sum((html / name).stat().st_size for name in needed) < 1_000_000
    assert "mathjax/tex-svg.js" not in page and "all.min.js" not in page
    assert not [path for path in html.rglob("*.html") if path.stat().st_size > 1_000_000]


def test_links_and_anchors_exist_and_dangling_ones_are_reported(html, check, tmp_path):
    assert check.missing(html, ["small", "rates-0"]) == check.errors(html) == check.dangling(html) == []
    assert check.missing(html, ["cut"])
    (tmp_path / "wrong.html").write_text('<a href="wrong.html#nowhere">a</a><img src="none.png">')
    assert len(check.dangling(tmp_path)) == 2


def test_titles_are_text_on_every_page(html):
    assert not [page for page in html.rglob("*.html") if "<script>alert" in page.read_text("utf-8")]
    for page in ("01_harvest", "04_generate"):
        shown = text(html, f"book/runs/small/{page}.html")
        assert "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in shown
        assert "mathjax_ignore" in shown


def test_no_page_loads_anything_from_the_internet(html):
    for page in html.rglob("*.html"):
        content = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?://[^\"]*)", content)
        assert not fetched, (page, fetched)
    assert (html / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 1e6
    assert "mathjax/tex-svg.js" in text(html, "book/method.html")


def test_parameters_and_imports_are_collapsed_and_progress_is_omitted(html):
    page = text(html, "book/runs/small/03_finetune.html")
    for words in ("Show the parameters and their defaults", "Show the parameters of this run", "Show the imports"):
        assert words in page
    assert "google.colab" not in page.split("<main")[1]
    assert "stderr" not in page and "Traceback" not in page
    assert 'alt="Loss, smoothed loss and validation loss against steps' in page


def test_notebook_pages_download(html):
    page, path = text(html, "book/runs/small/03_finetune.html"), "_sources/book/runs/small/03_finetune.ipynb"
    assert f'href="../../../{path}"' in page
    assert json.loads(text(html, path))["cells"]


def test_the_method_is_explained_with_figures_of_a_run(html):
    page = text(html, "book/explained.html")
    for words in ("held-out title", "Perplexity of the validation texts", "likeliest next tokens", "share of copies"):
        assert re.search(rf'<img[^>]*alt="[^"]*{words}', page), words
    assert page.count("only-light") == page.count("only-dark") == 4
    lesson = json.loads(text(html, "runs/small/lesson.json"))
    assert len(lesson["tokens"]) == len(lesson["nats"]) and all(nats >= 0 for nats in lesson["nats"])
    assert sorted(lesson["probabilities"], reverse=True) == lesson["probabilities"]
    assert 0 < sum(lesson["probabilities"]) <= 1


def test_the_surprise_of_a_text_is_its_loss(finished):
    from titlesmith import train as engines
    from titlesmith.book.lessons import measure
    from titlesmith.corpus import Corpus

    measured, corpus = measure(Report(finished.path)), Corpus(finished)
    some = corpus.documents("test")
    (same,) = [ids for ids in some if [corpus.tokenizer.decode([i]) for i in ids.tolist()][:24] == measured["tokens"]][
        :1
    ]
    shown = len(measured["nats"])  # the page shows so many tokens of a long text
    ids, learned = np.array([[corpus.tokenizer.eos_id, *same]]), (np.arange(len(same)) < shown)[None].astype(np.float32)
    assert sum(measured["nats"]) == pytest.approx(engines.load_engine(finished).losses(ids, learned)[0], rel=0.05)


def test_the_reference_has_every_parameter_and_command(html):
    from titlesmith.experiment import declared

    page = text(html, "book/parameters.html")
    for stage in STAGES:
        for name in declared(stage).keys() - {"model", "seed"}:
            assert f"{stage}.{name}<" in page
    page = re.sub("<[^>]*>", "", text(html, "book/commands.html"))
    for name in ("run", "models get", "book", "compare"):
        assert f"titlesmith {name}" in page
    assert "--publish DIR|gh-pages" in page


def test_the_page_of_a_sweep_labels_published_results(html):
    page = text(html, "book/sweeps/rates.html")
    assert "published: Liu and Zheng" in page and "17.61" in page
    assert 'href="../runs/rates-1/index.html"' in page


def test_a_page_of_a_run_shows_text_as_text_and_labels_made_up_papers(finished, monkeypatch):
    report = Report(finished.path)
    assert "made up" not in pages.render_index(report)
    monkeypatch.setattr(Report, "made_up", True)
    report.texts = [{"text": f"{HOSTILE}\n\n# [a](nowhere.md)"}]
    for shown in (pages.render_index(report), pages.render_cards([report])):
        assert "made up" in shown or "made-up papers" in shown
        assert "<script>" not in shown and "&lt;script&gt;" in shown
        assert "\n# [a]" not in shown


def test_a_second_build_reads_no_page_again_and_draws_no_figure(project, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(project))
    monkeypatch.setattr(figures, "create_panels", lambda *_: pytest.fail("a figure was drawn"))
    build()
    assert "0 added, 0 changed, 0 removed" in (project / "_build" / "book.log").read_text("utf-8")


def test_a_page_with_an_error_fails_the_build_with_its_name(project, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(project))
    page = project / "book" / "gpu.md"
    good = page.read_text("utf-8")
    page.write_text(good + "\n[](nowhere.md)\n", "utf-8")
    for _ in range(2):  # Sphinx warns only of pages that it reads anew
        with pytest.raises(StageError, match=r"gpu\.md.*nowhere"):
            build()
    page.write_text(good, "utf-8")


def test_a_changed_style_and_a_removed_run_change_the_book(project, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(project))
    shutil.rmtree(project / "runs" / "small")
    with (project / "book" / "_static" / "titlesmith.css").open("a") as style:
        style.write("/* new */\n")
    book = build()
    html = book.page.parent
    assert not list(html.rglob("small*")) and not list((project / "book" / "runs").iterdir())
    assert "/* new */" in (html / "_static" / "titlesmith.css").read_text("utf-8")
    assert "No run is complete yet" in text(html, "book/index.html")
    with zipfile.ZipFile(pack(book)) as archive:
        names = set(archive.namelist())
    assert {"book/index.html", "book/searchindex.js", "book/book/index.html"} <= names


def test_only_one_build_runs_at_a_time(project, monkeypatch):
    from filelock import FileLock

    monkeypatch.setenv("TITLESMITH_ROOT", str(project))
    with FileLock(project / "_build" / ".lock"), pytest.raises(RunError, match="being built"):
        build()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_reports_no_serious_problem(html, theme):
    script = axe()
    with chromium() as browser:
        page = browser.new_page(color_scheme=theme)
        page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
        for name in filter(lambda name: (html / name).is_file(), KINDS):
            page.goto((html / name).as_uri())
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            assert faults(page, script) == [], name


def test_search_works_from_a_folder(html):
    with chromium() as browser:
        page = browser.new_page()
        page.goto((html / "search.html").as_uri() + "?q=nucleus")
        page.wait_for_selector("#search-results li a")
        assert any("explained.html" in a.get_attribute("href") for a in page.query_selector_all("#search-results li a"))


def test_no_page_is_wider_than_a_telephone(html):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 400, "height": 800})
        for name in ("book/index.html", "book/runs.html", "book/explained.html", "book/parameters.html"):
            page.goto((html / name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, name
