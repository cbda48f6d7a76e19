"""The model in the browser: the same tokens, scores and marks as in Python, and the box that readers use."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import browser
from conftest import HOSTILE, ROOT
from titlesmith.book import writer
from titlesmith.book.report import Report
from titlesmith.corpus import DocumentFormat
from titlesmith.corpus.template import template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.markup import render
from titlesmith.models import BASE, SCRATCH, base, gpt2_checkpoint, shapes

TITLES = [
    f"{a} {b} for {c}"
    for a in ("Neural", "Robust", "Étude of", "A 2-stage")
    for b in ("speech", "naïve 音声", "MUSIC's")
    for c in ("transcription", "low-resource   languages", "β-decay (v1.0)")
]
SETTINGS = {"top_k": 40, "top_p": 1.0, "max_tokens": 64}
HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Box</title><main><h1>Box</h1>'


@pytest.fixture(scope="module")
def format():
    return DocumentFormat(template("title"), Tokenizer.load(base.FOLDER))


@pytest.fixture(scope="module")
def page(format, tmp_path_factory):
    """A page of a book with the box of the base model, opened from a folder and without a network."""
    folder = tmp_path_factory.mktemp("book")
    weights, _ = base.read()
    script = writer.pack(weights, BASE, format, [*TITLES, HOSTILE], SETTINGS, "2 ab")
    assert len(script) < 9e6 and writer.SCRIPT.fullmatch(script)
    path = folder / "runs" / "r" / writer.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(script)
    shutil.copytree(ROOT / "book" / "_static", folder / "_static")
    (folder / "book").mkdir()
    report = SimpleNamespace(name="r", record=lambda stage: {"settings": {"temperature": 0.9}})
    box = str(render("writer.html.j2", report=report, script=path, root=".."))
    (folder / "book" / "page.html").write_text(HEAD + box, "utf-8")
    with browser.chromium() as chromium:
        context = chromium.new_context(offline=True, viewport={"width": 400, "height": 800})
        page = context.new_page()
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto((folder / "book" / "page.html").as_uri())
        yield page
        assert not page.faults


def ask(page, code: str, *arguments: object) -> object:
    """What an expression in ``model`` and ``given`` returns in the browser."""
    call = f"async (given) => {{ const model = await titlesmithWriter.open('../runs/r/model.js'); return {code}; }}"
    return page.evaluate(call, list(arguments))


@pytest.mark.browser
def test_ten_titles_by_keyboard_offline_from_a_folder(page):
    assert page.evaluate("window.titlesmithModel") is None and page.locator("script[src*='model.js']").count() == 0
    page.get_by_role("textbox", name="Beginning").fill("Neural")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "temperature"
    page.keyboard.press("Tab")
    assert page.get_by_role("spinbutton", name="Titles").input_value() == "10"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Write titles"
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("10 titles written").wait_for(timeout=120_000)
    shown = page.get_by_role("list", name="Titles written here").get_by_role("listitem").all_inner_texts()
    assert len(set(shown)) == 10 and all(title.startswith("Neural") for title in shown)
    assert np.mean([len(title.split()) for title in shown]) > 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.mark.browser
def test_a_wrong_value_is_corrected_and_text_is_text(page):
    page.get_by_role("textbox", name="Beginning").fill("<img src=x onerror=alert(1)> Neur")
    page.get_by_role("spinbutton", name="Titles").fill("0")
    page.get_by_role("spinbutton", name="Temperature").fill("")
    page.locator("form").evaluate("form => { form.noValidate = true; }")
    page.get_by_role("button", name="Write titles").click()
    page.get_by_role("status").get_by_text("titles written").wait_for(timeout=60_000)
    assert page.locator("ol img").count() == 0
    assert page.get_by_role("listitem").first.inner_text().startswith("<img src=x onerror=alert(1)> Neur")
    page.get_by_role("textbox", name="Beginning").fill("音声" * 80)
    page.get_by_role("button", name="Write titles").click()
    page.get_by_role("status").get_by_text("too long").wait_for()


@pytest.mark.browser
def test_the_likeliest_next_token_is_pythons_after_100_prompts(page, format):
    import torch

    rng = np.random.default_rng(1)
    prompts = [format.layout.prompt_ids("", TITLES[i % len(TITLES)]) for i in range(100)]
    prompts = [ids[: rng.integers(1, len(ids) + 1)] for ids in prompts]
    model = gpt2_checkpoint.to_transformers(base.read()[0], BASE).eval()
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy() for ids in prompts]
    code = "given[0].map((ids) => { model.feedAll(ids, 0); return Array.from(model.logprobs()); })"
    scores = np.array(ask(page, code, prompts))
    assert scores.argmax(1).tolist() == [int(row.argmax()) for row in expected]
    assert np.abs(scores - np.array(expected)).max() < 1e-3


@pytest.mark.browser
def test_texts_have_the_tokens_of_python_and_prefixes_its_candidates(page, format):
    texts = [*TITLES, HOSTILE, "it's  two\tspaces", "emoji 👩‍💻", " leading", "<|endoftext|>"]
    assert ask(page, "given[0].map((text) => model.encode(text))", texts) == list(map(format.tokenizer.encode, texts))
    for prefix in ("", "Neural", "A Deep Neur", "Speech ", "β"):
        head, ends = format.tokenizer.cover_encodings(prefix) if prefix else ([], {(): []})
        expected = [[*head, *begun, end] for begun, ids in ends.items() for end in ids] or [[]]
        assert sorted(ask(page, "model.heal(given[0]).map((one) => one.ids)", prefix)) == sorted(expected)


@pytest.mark.browser
def test_copies_are_marked_and_other_titles_are_not(page):
    assert all(ask(page, "given[0].map((title) => model.isCopy(title))", [t.upper() for t in TITLES if "β" not in t]))
    others = [f"{title} again" for title in TITLES]
    assert sum(ask(page, "given[0].map((title) => model.isCopy(title))", others)) == 0


@pytest.mark.browser
def test_axe_reports_no_serious_problem(page):
    assert browser.faults(page, browser.axe()) == []


def test_scratch_with_its_largest_vocabulary_is_below_7_mb():
    shape = SCRATCH["scratch"] | {"n_vocab": 8192}
    rng = np.random.default_rng(1)
    weights = {name: rng.normal(0, 0.02, size).astype(np.float32) for name, size in shapes(shape).items()}
    tokenizer = Tokenizer.load(base.FOLDER)
    assert (
        len(writer.pack(weights, shape, DocumentFormat(template("title"), tokenizer), TITLES, SETTINGS, "2 ab")) < 7e6
    )


def test_a_run_has_a_script_and_a_publication_keeps_it_but_no_other_code(finished, tmp_path):
    report, path = Report(finished.path), tmp_path / "out" / writer.FILE
    assert writer.can_write(report) and writer.write_script(report, path)
    before, content = path.stat().st_mtime_ns, path.read_bytes()
    assert writer.write_script(report, path) and path.stat().st_mtime_ns == before, "it is not packed again"
    # A publication has no weights, but the script
    published = tmp_path / "published"
    report.copy_to(published / "runs" / "small", finished.path / "notebooks")
    report = Report(published / "runs" / "small")
    assert not writer.write_script(report, tmp_path / "none.js")
    (report / writer.FILE).write_bytes(content)
    assert writer.write_script(report, tmp_path / "kept.js") and (tmp_path / "kept.js").read_bytes() == content
    (report / writer.FILE).write_bytes(content.replace(b'";/*', b'";alert(1);/*'))
    assert not writer.write_script(report, tmp_path / "other.js") and not (tmp_path / "other.js").exists()


def test_models_with_prompts_or_of_transformers_get_no_box(finished):
    report = Report(finished.path)
    for stage, key, value in (("corpus", "template", "abstract-to-title"), ("finetune", "model", "hf:scratch")):
        changed = Report(finished.path)
        changed.info = json.loads(json.dumps(report.info))
        changed.info["stages"][stage]["settings"][key] = value
        assert not writer.can_write(changed)
