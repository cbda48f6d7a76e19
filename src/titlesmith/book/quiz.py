"""The quiz "Real or generated?": which texts of a run it shows."""

import json
import random

import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import evenly_spread
from titlesmith.corpus.clean import fold
from titlesmith.evaluate.faults import NEAR
from titlesmith.generate.generator import is_clean
from titlesmith.runs import Run

FILE = "quiz.json"  # the items, in a published record
EACH = 10  # real texts, and as many generated ones


def load_items(run: Run) -> list[dict]:
    """The items of a run's quiz: chosen from its texts, or read from a published record, which has no test texts."""
    if (run / FILE).is_file():
        rows = json.loads((run / FILE).read_text("utf-8"))[: 2 * EACH]
        return [{"text": str(row["text"]), "real": bool(row["real"]), "note": str(row["note"])} for row in rows]
    return choose_items(run) if (run / "corpus" / "test.parquet").is_file() else []


def choose_items(run: Run, each: int = EACH) -> list[dict]:
    """Texts of a run, half of them real, at most ``each`` of both kinds, shuffled: ``text``, ``real`` and a ``note``.

    Real texts are completions of test papers. Generated ones are finished and clean, not near copies of training texts,
    and not test texts. Those without a prefix are preferred, because a prefix that many share identifies them.
    """
    chance = random.Random(run.record("generate")["settings"].get("seed", 1))
    # Real texts: a sample of the test split
    corpus = Corpus(run)
    chosen = evenly_spread(len(corpus.documents("test")), 10 * each)
    test = corpus.scan("test").select("id", "completion").with_row_index()
    test = test.filter(pl.col("index").is_in(chosen.tolist())).collect()
    real = {
        fold(row["completion"]): {"text": row["completion"], "real": True, "note": f"paper {row['id']}"}
        for row in test.to_dicts()
        if row["completion"].strip()
    }
    # Generated texts: each once
    generated = {}
    for row in run.texts:
        key = fold(row["text"])
        good = key and row["finished"] and is_clean(row["text"], row["prefix"]) and row["nearest_similarity"] < NEAR
        if good and key not in real:
            generated.setdefault(key, row)
    # As many of both, shuffled
    half = min(each, len(real), len(generated))
    rows = sorted(chance.sample(list(generated.values()), len(generated)), key=lambda row: bool(row["prefix"]))[:half]
    near = [f"the training text most like it: {row.get('nearest', row['nearest_id'])}" for row in rows]
    items = [{"text": row["text"], "real": False, "note": note} for row, note in zip(rows, near, strict=True)]
    items += chance.sample(list(real.values()), half)
    chance.shuffle(items)
    return items
