"""The book's page "What to expect": what finished runs took, what they reached, and texts that they wrote.

    python benchmarks/expect.py RUN...

The runs are in the project's ``runs/``, made by `titlesmith run`. Their measurements go to ``book/expect.json``, where
they replace those of the same model, task and papers, and the page ``book/expect.md`` is written from it. Figures and
generated texts are kept, and no text by people.
"""

import argparse
import json
import random
from pathlib import Path

import jinja2

BOOK = Path(__file__).parent.parent / "book"
SHOWN = 20  # texts of a run


def main() -> None:
    """Reads the runs, and writes both files."""
    from titlesmith.runs import open_run

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--book", type=Path, default=BOOK, help="the folder of both files")
    given = parser.parse_args()
    file = given.book / "expect.json"
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    for row in (measurements(open_run(name)) for name in given.runs):
        key = ("model", "task", "papers")
        rows = [other for other in rows if any(other[k] != row[k] for k in key)] + [row]
    rows.sort(key=lambda row: (row["task"] != "title", row["papers"], -row["test_bits_per_byte"]))
    file.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (given.book / "expect.md").write_text(page(rows), "utf-8")


def measurements(run) -> dict:
    """Figures of a run and some of its texts, chosen by its seed."""
    from titlesmith.corpus import Corpus
    from titlesmith.evaluate.measurement import Measurements
    from titlesmith.evaluate.rouge import STEMMED, add_rouge
    from titlesmith.train import monitor

    training, corpus, metrics, texts = run.record("finetune"), run.record("corpus"), run.metrics, run.texts
    settings, history = training["settings"], monitor.read(run / "history.csv")
    # Of several texts for one paper, the likeliest one counts
    first = list({row["paper"] or i: row for i, row in reversed(list(enumerate(texts)))}.values())[::-1]
    papers = Path(run.record("harvest")["settings"]["path"]).name.removesuffix(".xz").removesuffix(".tsv")
    row = {
        "model": "Gemma 3 270M" if "gemma" in settings["model"] else settings["model"],
        "task": corpus["settings"]["template"],
        "papers": papers,
        "device": training["device"],
        "training_documents": len(Corpus(run).documents("train")),
        "steps": training["steps"],
        "tokens_per_step": settings["batch_size"] * settings["accumulate"] * settings["block_size"],
        "training_seconds": history[-1]["seconds"],
        "peak_memory_bytes": training.get("peak_memory_bytes"),
        "test_perplexity": metrics["perplexity"]["test"],
        "test_bits_per_byte": metrics["bits_per_byte"]["test"],
        "valid_bits_per_byte_before": metrics["before"]["bits_per_byte"],
        "valid_bits_per_byte_after": metrics["after"]["bits_per_byte"],
        "copy_rate": metrics["copy_rate"],
        "artifact_rate": metrics["artifact_rate"],
        "texts": len(texts),
    }
    for key in ("classifier_accuracy", "reference_bits_per_byte"):
        row |= {key: metrics.get(key), f"{key}_people": metrics["human"].get(key)}
    if any(text["paper"] for text in texts):
        real = real_texts(run)
        own, pairs = Measurements(), [(text["paper"], real[text["paper"]], text["text"]) for text in first]
        add_rouge(own, pairs, settings["seed"])
        row |= {name: own.values[name] for name in STEMMED}
    plain = [text["text"] for text in first if not text["prefix"]]
    return row | {"sample": random.Random(settings["seed"]).sample(plain, min(SHOWN, len(plain)))}


def real_texts(run) -> dict:
    """The completions of held-out papers by id."""
    import polars as pl

    from titlesmith.corpus import Corpus

    papers = pl.concat([Corpus(run).scan(split) for split in ("test", "valid")]).collect()
    return dict(zip(papers["id"], papers["completion"], strict=True))


def page(rows: list[dict]) -> str:
    """The page, from its template."""
    from titlesmith.evaluate.rouge import PUBLISHED

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("expect.md.jinja").render(rows=rows, published=PUBLISHED)


if __name__ == "__main__":
    main()
