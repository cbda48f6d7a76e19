"""A study with readers: a page with a fixed set of items, and what the exported answers say.

The page has no answers; they stay in `KEY`. Accuracy has an interval over raters, because answers of one rater are
alike; agreement is Krippendorff's alpha (2004) for nominal data, which allows missing answers.
"""

import csv
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from nltk.metrics.agreement import AnnotationTask

from titlesmith.book import quiz, write
from titlesmith.corpus.template import template
from titlesmith.errors import DAMAGE, RequestError
from titlesmith.evaluate.measurement import Measurement, MissingError, ratio, share
from titlesmith.markup import render
from titlesmith.runs import Run, digest, root, write_json

KEY = "study.json"  # the items with their answers, next to the page
ERRORS = "error-types.csv"  # in the book
SCRIPT = "study.js"
KINDS = {"single": "real or generated", "pair": "which of two is generated"}
MIN_RATERS = 10  # of a bootstrap over raters; with fewer, the interval is over answers


def write_study(runs: list[Run], folder: Path, count: int, seed: int) -> int:
    """Writes a study's page, script and key into a folder; returns the number of items.

    Of each run there are up to ``count`` pairs and as many single texts, fewer if it has fewer clean texts. No suitable
    texts at all, and a folder with the key of another study, are a RequestError.
    """
    chance, items = random.Random(seed), []
    with (root() / "book" / ERRORS).open(encoding="utf-8", newline="") as file:
        errors = list(csv.DictReader(file))
    for run in runs:
        abstracts = "abstract" in template(run.record("corpus")["settings"]["template"]).completion_fields
        named = [row["error"] for row in errors if abstracts or row.get("of", "any text") == "any text"]
        chosen = quiz.choose_items(run, 2 * count)
        real, generated = ([item["text"] for item in chosen if item["real"] is kind] for kind in (True, False))
        pairs = min(count, (len(real) + 1) // 2)
        for texts in zip(real[:pairs], generated[:pairs], strict=True):
            second = chance.random() < 0.5  # whether the generated text is the second
            texts = list(texts if second else texts[::-1])
            items.append({"kind": "pair", "run": run.name, "texts": texts, "answer": int(second)})
        rest = [*((text, 0) for text in real[pairs:]), *((text, 1) for text in generated[pairs:])]
        for text, answer in chance.sample(rest, min(count, len(rest))):
            items.append({"kind": "single", "run": run.name, "texts": [text], "answer": answer, "errors": named})
    if not items:
        raise RequestError("study: no texts of these runs are finished, clean and not near copies. Generate more")
    chance.shuffle(items)
    key = folder / KEY
    if key.is_file() and _read(key).get("items") != items:
        raise RequestError(f"--out {folder}: it has another study, whose answers may be on their way; choose another")
    write_json(key, {"items": items})
    shutil.copyfile(root() / "book" / "_static" / SCRIPT, folder / SCRIPT)
    shown = [{name: value for name, value in item.items() if name not in ("run", "answer")} for item in items]
    meanings = {row["error"]: row["what is wrong"] for row in errors}
    page = render("study.html.j2", study={"study": digest(key), "items": shown, "errors": meanings}, script=SCRIPT)
    write(folder / "index.html", page)
    return len(items)


def collect(folder: Path) -> list[dict]:
    """Rows of accuracy and agreement, by run and kind of item, and of the error types, from a folder's answers.

    The folder has `KEY` and the files that raters exported, anywhere below it. Answers to another study, and a second
    file of one rater, are a RequestError.
    """
    key = folder / KEY
    if not key.is_file():
        raise RequestError(f"--collect {folder}: it has no {KEY}; `titlesmith study RUN` writes it")
    items, identity = _read(key)["items"], digest(key)
    raters: dict[str, dict[int, dict]] = {}
    for path in sorted(set(folder.rglob("*.json")) - {key}):
        answers = _read(path)
        if answers.get("study") != identity:
            raise RequestError(f"{path}: its answers belong to another study; move it out of {folder}")
        rater = str(answers.get("rater"))
        if rater in raters:
            raise RequestError(f"{path}: the rater {rater[:40]!r} has another file; keep one of the two")
        try:
            raters[rater] = _check(answers["answers"], items)
        except DAMAGE as error:
            raise RequestError(f"{path} is damaged ({error!r}): export the answers again") from None
    if not raters:
        raise RequestError(f"--collect {folder}: there are no answers, only {KEY}")
    return summarize(items, list(raters.values()))


def _read(path: Path) -> dict:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is damaged ({error}): export the answers again") from None
    return content if isinstance(content, dict) else {}


def _check(answers: dict, items: list[dict]) -> dict[int, dict]:
    """The answers by item, ``choice`` and ``errors``, with their values checked (DAMAGE)."""
    checked = {}
    for number, answer in answers.items():
        choice, errors = answer["choice"], list(answer.get("errors", []))
        index = range(len(items))[int(number)]
        if choice not in (0, 1) or not set(errors) <= set(items[index].get("errors", ())):
            raise ValueError(f"answer {number}")
        checked[index] = {"choice": int(choice), "errors": errors}
    return checked


def summarize(items: list[dict], raters: list[dict[int, dict]]) -> list[dict]:
    """One row for each run and kind of item: raters, answers, accuracy with its interval, agreement, errors."""
    rows = []
    for run, kind in dict.fromkeys((item["run"], item["kind"]) for item in items):
        of = {i: item["answer"] for i, item in enumerate(items) if (item["run"], item["kind"]) == (run, kind)}
        choices = [{i: answer["choice"] for i, answer in rater.items() if i in of} for rater in raters]
        errors = Counter(e for rater in raters for i, answer in rater.items() if i in of for e in answer["errors"])
        measured = accuracy([[choice == of[i] for i, choice in rater.items()] for rater in choices])
        agreement = krippendorff_alpha([[rater[i] for rater in choices if i in rater] for i in of])
        rows.append({
            "run": run,
            "task": KINDS[kind],
            "raters": sum(map(bool, choices)),
            "answers": sum(map(len, choices)),
            "accuracy": "{:.1%} ({:.1%} to {:.1%})".format(measured.value, *measured.interval) if measured else "-",
            "agreement": "-" if agreement is None else f"{agreement:.2f}",
            "errors": ", ".join(f"{name} {number}" for name, number in errors.most_common()),
        })  # fmt: skip
    return rows


def accuracy(right: list[list[bool]]) -> Measurement | None:
    """The share of right answers, which each rater has a list of, with a 95% interval; None without an answer."""
    right = [answers for answers in right if answers]
    try:
        if len(right) < MIN_RATERS:
            return share([answer for answers in right for answer in answers])
        return ratio(np.array(list(map(sum, right))), np.array(list(map(len, right))), seed=1)
    except MissingError:
        return None


def krippendorff_alpha(units: list[list[int]]) -> float | None:
    """Agreement of the values of each unit: 1 if all agree, 0 as by chance; None if no unit has two values."""
    units = [values for values in units if len(values) > 1]
    rated = [(rater, unit, value) for unit, values in enumerate(units) for rater, value in enumerate(values)]
    return float(AnnotationTask(rated).alpha()) if rated else None
