"""The study: its page, answered in Chromium, and its statistics with simulated raters."""

import json

import numpy as np
import pytest

import browser
from conftest import HOSTILE
from titlesmith.book import quiz, study
from titlesmith.errors import RequestError


class Named:
    def __init__(self, name):
        self.name = name

    def record(self, stage):
        return {"settings": {"template": "title-to-abstract" if self.name == "b" else "title"}}


@pytest.fixture(autouse=True)
def texts(monkeypatch):
    """Runs whose texts are known: real ones begin with "Real"."""

    def choose(run, each):
        made = {True: "Real", False: f"{HOSTILE} made"}
        return [{"text": f"{made[i % 2 == 0]} {run.name} {i}", "real": i % 2 == 0} for i in range(2 * each)]

    monkeypatch.setattr(quiz, "choose_items", choose)


@pytest.fixture
def folder(project):
    assert study.write_study([Named("a"), Named("b")], project / "study", 4, 1) == 16
    return project / "study"


def answer(folder, rater: str, choices: dict) -> None:
    identity = study.digest(folder / study.KEY)
    content = {"study": identity, "rater": rater, "answers": {i: {"choice": c} for i, c in choices.items()}}
    (folder / f"{rater}.json").write_text(json.dumps(content))


def test_items_are_fixed_by_the_seed_and_the_page_has_no_answers(folder, project):
    key = json.loads((folder / study.KEY).read_text())
    page = (folder / "index.html").read_text()
    assert "answer" not in page.split('id="items"')[1] and "<script>alert" not in page
    kinds = [(item["run"], item["kind"]) for item in key["items"]]
    assert all(kinds.count((run, kind)) == 4 for run in "ab" for kind in study.KINDS)
    for item in key["items"]:
        made = [not text.startswith("Real") for text in item["texts"]]
        assert item["answer"] == (made.index(True) if item["kind"] == "pair" else made[0])
    study.write_study([Named("a"), Named("b")], folder, 4, 1)
    with pytest.raises(RequestError, match="another study"):
        study.write_study([Named("a"), Named("b")], folder, 4, 2)


def test_answers_are_collected_by_run_and_kind(folder):
    items = json.loads((folder / study.KEY).read_text())["items"]
    for rater in ("one", "two"):
        answer(folder, rater, {i: item["answer"] if item["run"] == "a" else 0 for i, item in enumerate(items)})
    rows = {(row["run"], row["task"]): row for row in study.collect(folder)}
    row = rows["a", "which of two is generated"]
    assert row["accuracy"].startswith("100.0% (") and row["agreement"] == "1.00" and row["answers"] == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"study": "other"}', "another study"),
        ('{"study": ID, "rater": "x", "answers": {"99": {"choice": 1}}}', "damaged"),
        ('{"study": ID, "rater": "x", "answers": {"0": {"choice": 7}}}', "damaged"),
        ('{"study": ID, "rater": "x", "answers": {"0": {"choice": 1, "errors": ["<b>"]}}}', "damaged"),
        ('{"study": ID, "rater": "x", "answers": {TITLE: {"choice": 1, "errors": ["structure"]}}}', "damaged"),
        ('{"study": ID, "rater": "one", "answers": {}}', "another file"),
    ],
)
def test_wrong_answers_are_named(folder, content, message):
    answer(folder, "one", {0: 1})
    items = json.loads((folder / study.KEY).read_text())["items"]
    title = next(i for i, item in enumerate(items) if item["run"] == "a" and item["kind"] == "single")
    content = content.replace("TITLE", f'"{title}"').replace("ID", json.dumps(study.digest(folder / study.KEY)))
    (folder / "x.json").write_text(content)
    with pytest.raises(RequestError, match=rf"x\.json.*{message}"):
        study.collect(folder)


def test_a_folder_without_a_key_or_answers_is_an_error(folder, tmp_path):
    with pytest.raises(RequestError, match="no answers"):
        study.collect(folder)
    with pytest.raises(RequestError, match="has no study"):
        study.collect(tmp_path / "empty")


def test_the_true_accuracy_of_200_raters_is_in_the_interval_in_95_percent_of_trials():
    rng, true, inside = np.random.default_rng(1), 0.62, 0
    for _ in range(200):
        skills = rng.beta(true * 12, (1 - true) * 12, 200)  # raters differ
        measured = study.accuracy([(rng.random(rng.integers(10, 21)) < skill).tolist() for skill in skills])
        inside += measured.interval[0] <= true <= measured.interval[1]
    assert 0.91 <= inside / 200 <= 0.99


def test_agreement_is_krippendorffs_alpha():
    assert study.krippendorff_alpha([[0, 0], [1, 1], [0, 0, 0]]) == 1
    assert study.krippendorff_alpha([[1], []]) is None
    # The binary example of Krippendorff (2011): two observers, ten units
    one, two = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert study.krippendorff_alpha(list(map(list, zip(one, two, strict=True)))) == pytest.approx(0.095, abs=1e-3)
    rng = np.random.default_rng(1)
    assert abs(study.krippendorff_alpha(rng.integers(0, 2, (500, 3)).tolist())) < 0.1


@pytest.mark.browser
def test_answered_by_keyboard_kept_in_the_browser_and_exported(folder):
    with browser.chromium() as chromium:
        page = chromium.new_context(offline=True, viewport={"width": 400, "height": 800}).new_page()
        page.goto((folder / "index.html").as_uri())
        for number in range(1, 17):
            if number == 9:
                page.reload()  # earlier answers are kept
            assert page.get_by_role("heading", level=2).inner_text() == f"Item {number} of 16"
            if page.get_by_role("button", name="Generated", exact=True).count():
                page.get_by_role("button", name="Generated", exact=True).press("Enter")
                abstract = page.locator("p.text").inner_text().split()[-2] == "b"
                assert page.get_by_label("structure: does not lead from the field").count() == abstract
                page.get_by_label("repetition: repeats itself").check()
                page.get_by_role("button", name="Next item").press("Enter")
            else:
                page.locator("button.text").first.press("Enter")
            assert page.evaluate("document.documentElement.scrollWidth") <= 400
        with page.expect_download() as download:
            page.get_by_role("button", name="Export the answers").press("Enter")
        download.value.save_as(folder / download.value.suggested_filename)
    rows = study.collect(folder)
    assert sum(row["answers"] for row in rows) == 16
    assert {row["errors"] for row in rows if row["task"] == study.KINDS["single"]} == {"repetition 4"}
