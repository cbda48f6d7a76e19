"""The quiz, chosen and shown; played in Chromium by clicks, by keyboard, and without a script."""

import re
import shutil
from types import SimpleNamespace

import polars as pl
import pytest

import browser
from conftest import HOSTILE, ROOT
from titlesmith.book import quiz
from titlesmith.markup import render

TEST = [f"Real title {i}" for i in range(40)]
ROW = {"prefix": "", "finished": True, "nearest_id": "x", "nearest": "Near", "nearest_similarity": 0.5}


class Recorded:
    """The part of a run that the page reads."""

    name = "r"

    def __init__(self, rows, test=TEST, made_up=False, seed=1):
        self.texts, self.test, self.made_up, self.seed = rows, test, made_up, seed

    def record(self, stage):
        return {"settings": {"seed": self.seed}}


@pytest.fixture(autouse=True)
def corpus(monkeypatch):
    """A corpus that is a run's list of test texts."""

    def read(run):
        table = pl.DataFrame({"id": [f"p{i}" for i in range(len(run.test))], "completion": run.test})
        table = table.cast({"id": pl.String, "completion": pl.String})
        return SimpleNamespace(scan=lambda name: table.lazy(), documents=lambda name: run.test)

    monkeypatch.setattr(quiz, "Corpus", read)


def render_quiz(run, items):
    return render("quiz.md.j2", run=run, items=items)


def written(count, **changed):
    return [ROW | {"text": f"Written title {i}"} | changed for i in range(count)]


def test_ten_and_ten_shuffled_by_the_seed():
    items = quiz.choose_items(Recorded(written(30)))
    assert len(items) == 20 and sum(item["real"] for item in items) == 10
    assert len({item["text"] for item in items}) == 20
    assert all(item["real"] == item["text"].startswith("Real") for item in items)
    kinds = [item["real"] for item in items]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))
    assert items == quiz.choose_items(Recorded(written(30))) != quiz.choose_items(Recorded(written(30), seed=2))


def test_copies_faults_repeats_and_test_titles_are_omitted():
    bad = [
        ROW | {"text": "near", "nearest_similarity": 0.95},
        ROW | {"text": "unfinished", "finished": False},
        ROW | {"text": "stray |>"},
        ROW | {"text": "  "},
        ROW | {"text": "real  TITLE 3"},
        *[ROW | {"text": "good"}, ROW | {"text": "Good"}] * 3,
    ]
    items = quiz.choose_items(Recorded(bad))
    assert [item["text"] for item in items if not item["real"]] == ["good"]
    assert len(items) == 2, "as many of both kinds"


def test_texts_without_a_prefix_come_first():
    items = quiz.choose_items(
        Recorded([*written(20, prefix="Written"), *(ROW | {"text": f"Free {i}"} for i in range(7))])
    )
    assert sum(item["text"].startswith("Free") for item in items) == 7


@pytest.mark.parametrize("run", [Recorded([]), Recorded(written(9), test=[]), Recorded(written(3, finished=False))])
def test_a_run_without_suitable_texts_has_a_page_that_says_so(run):
    assert "There is no quiz for this run" in render_quiz(run, quiz.choose_items(run))


def test_made_up_papers_are_labelled_and_text_is_escaped():
    run = Recorded([ROW | {"text": f"{HOSTILE} {i} \ud800"} for i in range(12)], made_up=True)
    page = render_quiz(run, quiz.choose_items(run))
    assert "The papers of this run are made up" in page and "The sample grammar wrote 10 of" in page
    assert "People wrote 10 of" in render_quiz(Recorded(written(12)), quiz.choose_items(Recorded(written(12))))
    assert "[r](index.md)" in page
    assert "made up" not in render_quiz(Recorded(written(12)), [])
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt; $x^2$" in page
    assert "mathjax_ignore" in page
    page.encode()


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def show(chromium, tmp_path):
    """Opens the quiz as the book has it, from a folder and without a network."""

    def opened(**options):
        folder = tmp_path / "book" / "runs" / "r"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "book" / "_static", tmp_path / "_static", dirs_exist_ok=True)
        rows = [ROW | {"text": f"{HOSTILE} {i}"} for i in range(30)]
        head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Quiz</title><h1>Real or generated?</h1>'
        (folder / "quiz.html").write_text(
            head + render("quiz.html.j2", items=quiz.choose_items(Recorded(rows))), "utf-8"
        )
        context = chromium.new_context(offline=True, **options)
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("dialog", lambda dialog: page.faults.append(dialog.message))
        page.goto((folder / "quiz.html").as_uri())
        return page

    return opened


@pytest.mark.browser
def test_played_by_clicks(show):
    page = show(viewport={"width": 400, "height": 800})
    assert page.get_by_role("listitem").count() == 0, "the answers are not shown"
    right = 0
    for number in range(1, 21):
        assert page.get_by_role("heading", level=2).inner_text() == f"Text {number} of 20"
        real = page.locator("#quiz-question").inner_text().startswith("Real title")
        say_real = real if number % 4 else not real  # wrong at every fourth
        page.get_by_role("button", name="Real" if say_real else "Generated", exact=True).click()
        told = page.get_by_role("status").inner_text()
        assert ("Right" in told) is (say_real == real) and ("Real:" if real else "Generated:") in told
        right += "Right" in told
        assert page.get_by_role("button", name="Real", exact=True).is_disabled(), "one answer a text"
        page.get_by_role("button", name="Next text" if number < 20 else "See the score").click()
    assert right == 15
    assert page.get_by_role("heading", level=2).inner_text() == "15 of 20 right"
    assert page.get_by_role("listitem").count() == 20
    assert page.get_by_text("you were wrong").count() == 5
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "nothing is cut on a telephone"
    page.get_by_role("button", name="Start again").click()
    assert page.get_by_role("heading", level=2).inner_text() == "Text 1 of 20"
    assert page.get_by_role("listitem").count() == 0 and not page.faults


@pytest.mark.browser
def test_played_by_keyboard_alone(show):
    page = show()

    def focused():
        return page.evaluate("document.activeElement.textContent")

    assert page.evaluate("document.activeElement === document.body"), "a page that opens does not take the focus"
    for number in range(1, 21):
        page.keyboard.press("Tab")
        assert focused() == "Real"
        if number % 2:
            page.keyboard.press("Tab")
            assert focused() == "Generated"
        page.keyboard.press("Enter" if number % 3 else "Space")
        assert re.search("Right|Wrong", page.locator("[role=status]").inner_text())
        assert focused() == ("Next text" if number < 20 else "See the score")
        page.keyboard.press("Enter")
        assert focused() == (f"Text {number + 1} of 20" if number < 20 else page.locator("#quiz-place").inner_text())
    assert re.fullmatch(r"\d+ of 20 right", focused())
    page.keyboard.press("Tab")
    assert focused() == "Start again"
    page.keyboard.press("Space")
    assert focused() == "Text 1 of 20"


@pytest.mark.browser
def test_without_a_script_it_is_a_list_with_collapsed_answers(show):
    page = show(java_script_enabled=False)
    assert page.get_by_role("listitem").count() == 20
    answer = page.locator("details p").first
    assert not answer.is_visible()
    page.locator("summary").first.click()
    assert answer.is_visible()
