"""Real or generated? A page of the book on which the reader tells texts by people from texts by a model."""

import random
from html import escape

import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.corpus.clean import fold
from titlesmith.evaluate.figures import spread
from titlesmith.evaluate.novelty import NEAR
from titlesmith.generate.generator import is_clean
from titlesmith.runs import MADE_UP, Run

FILE = "quiz.json"  # the items, in a published record
EACH = 10  # real texts, and as many generated ones
STATIC = "../../../_static"  # as seen from the page of a run


def page(run: Run, items: list[dict]) -> str:
    """The page of a run with the items of `choose`: a list with folded answers, which quiz.js makes a quiz of."""
    made_up = f":::{{admonition}} Made-up data\n:class: warning\n{MADE_UP}\n:::\n\n" if run.made_up else ""
    if not items:
        return (
            f"# Real or generated?\n\n{made_up}There is no quiz for this run: it takes a finished, clean text "
            "that is no near copy, and a test text by people.\n"
        )
    half = len(items) // 2
    told = (
        f"Of these {len(items)} texts, people wrote {half}: they are of papers that the model has never seen. "
        f"The model wrote the other {half}; none is nearly a copy of a text that it was trained on."
    )
    return f"# Real or generated?\n\n{made_up}{told}\n\n{html(items)}\n"


def choose(run: Run) -> list[dict]:
    """Texts of a run in an order that the seed decides, half of them real, `EACH` of both kinds at most.

    Real ones are completions of test papers. Generated ones are finished and clean, no near copies of training texts,
    no test texts; ones without a prefix come first, because a prefix that many share gives them away.

    Returns
    -------
    list of dict
        ``text``, ``real``, and ``note``: the paper, or the training text most like it.
    """
    chance = random.Random(run.record("generate")["settings"].get("seed", 1))
    corpus = Corpus(run)
    held_out = corpus.scan("test").select("id", "completion").with_row_index()
    chosen = spread(len(corpus.documents("test")), 10 * EACH)
    table = held_out.filter(pl.col("index").is_in(chosen.tolist())).collect()
    real = {
        fold(text): {"text": text, "real": True, "note": f"paper {name}"}
        for name, text in zip(table["id"], table["completion"], strict=True)
        if text.strip()
    }
    generated = {}
    for row in run.texts:
        key = fold(row["text"])
        good = key and row["finished"] and is_clean(row["text"], row["prefix"]) and row["nearest_similarity"] < NEAR
        if good and key not in real:
            note = f"the training text most like it: {row.get('nearest', row['nearest_id'])}"
            generated.setdefault(key, {"text": row["text"], "real": False, "note": note, "prefix": bool(row["prefix"])})
    half = min(EACH, len(real), len(generated))
    drawn = chance.sample(list(generated.values()), len(generated))
    items = sorted(drawn, key=lambda item: item.pop("prefix"))[:half] + chance.sample(list(real.values()), half)
    chance.shuffle(items)
    return items


def html(items: list[dict]) -> str:
    """The quiz: works without a script as a list whose answers unfold, and without a network."""
    entries = "".join(
        f'<li data-answer="{_kind(item)}"><p class="quiz-text">{_line(item["text"])}</p>'
        f"<details><summary>Real or generated?</summary><p><strong>{_kind(item).capitalize()}</strong>: "
        f"{_line(item['note'])}</p></details></li>"
        for item in items
    )
    return (
        f'<link rel="stylesheet" href="{STATIC}/quiz.css"><div id="quiz" class="tex2jax_ignore mathjax_ignore"><ol>'
        f'{entries}</ol></div><script src="{STATIC}/quiz.js"></script>'
    )


def _kind(item: dict) -> str:
    return "real" if item["real"] else "generated"


def _line(text: str) -> str:
    """Text as one line of HTML; half a surrogate pair, which no file can hold, as U+FFFD."""
    return escape(" ".join(text.encode("utf-8", "replace").decode().split()))
