"""Does `vocabulary: corpus` cost anything? Perplexity after fine-tuning with each of the two softmaxes.

    python benchmarks/vocabulary.py

No pretrained weights are needed: a small GPT-2 with GPT-2's own vocabulary is first trained on titles of cs.CL, then
fine-tuned on titles of eess.AS, once with each setting and for each seed, keeping the weights of the best validation.
All is measured on the test split of eess.AS with the softmax over the full vocabulary. Half an hour on two cores, or
less with --steps.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import snapshot

SIZE = {"n_vocab": 50257, "n_ctx": 256, "n_embd": 192, "n_head": 6, "n_layer": 4}


def main() -> None:
    """Trains, measures and prints."""
    trial(__doc__, 1200, compare, show)


def trial(text: str, steps: int, compare: Callable, show: Callable) -> None:
    """Runs a comparison of trainings from the command line, in a separate project."""
    parser = argparse.ArgumentParser(description=text.split("\n")[0])
    parser.add_argument("--steps", type=int, default=steps, help="of the first training; a quarter when fine-tuned")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        for stage in ("harvest", "corpus", "finetune"):
            defaults(stage)  # read, and remembered, where the notebooks are
        os.environ["TITLESMITH_ROOT"] = folder
        found = compare(Path(folder), asked.steps, range(1, asked.seeds + 1))
    show(found)
    if asked.json:
        print(json.dumps(found))


def show(found: dict) -> None:
    """Prints the perplexities."""
    for row in found["runs"]:
        print("seed {seed}  {vocabulary:>6}  test perplexity {perplexity:8.2f}  {seconds:5.0f} s".format(**row))
    ratio = found["test_perplexity_ratio_corpus_to_full"]
    print(f"corpus / full, means over seeds: {ratio:.4f}; at most 1.01 for it to be the default")


def compare(folder: Path, steps: int, seeds: range) -> dict:
    """Perplexities of both settings for each seed, and the ratio of their means."""
    from titlesmith import train as engines
    from titlesmith.corpus.tokenizer import Tokenizer
    from titlesmith.train.gpt2 import GPT2Engine

    vocabulary = snapshot.DATA.resolve() / "gpt2-bpe"
    GPT2Engine(Tokenizer.load(vocabulary), SIZE, seed=1).save_weights(folder / "random")
    train(*build("first", "cs.CL", vocabulary), "random", steps, 2e-3, 1, vocabulary="full")
    run, corpus = build("second", "eess.AS", vocabulary)
    rows = []
    for seed in seeds:
        for setting in ("full", "corpus"):
            run.clear("finetune")
            run.begin("finetune", {})
            begun = time.perf_counter()
            best = {"keep": "best", "validate_every": 25, "vocabulary": setting}
            train(run, corpus, "runs/first/model", steps // 4, 5e-4, seed, **best)
            seconds = time.perf_counter() - begun
            test = math.exp(engines.load_engine(run).mean_loss(corpus.documents("test")))
            rows.append({"seed": seed, "vocabulary": setting, "perplexity": test, "seconds": seconds})
    means = [statistics.mean(r["perplexity"] for r in rows if r["vocabulary"] == s) for s in ("corpus", "full")]
    return {"runs": rows, "test_perplexity_ratio_corpus_to_full": means[0] / means[1]}


def build(name: str, category: str, vocabulary: Path | None) -> tuple:
    """The run and the corpus of a category's titles."""
    from titlesmith import corpus
    from titlesmith.harvest import harvest
    from titlesmith.runs import Run

    run = Run(name)
    run.begin("harvest", {})
    path = str(snapshot.DATA.resolve() / "arxiv" / f"{category}.tsv.xz")
    harvest(run, defaults("harvest") | {"source": "archive", "path": path})
    run.begin("corpus", {})
    built = corpus.build(run, defaults("corpus"), vocabulary, SIZE["n_ctx"])
    run.begin("finetune", {})
    return run, built


def train(run, corpus, model: str, steps: int, rate: float, seed: int, **changed: object) -> None:
    """Trains as notebook 03 does; ends the stage, so that the model can be loaded."""
    from titlesmith import train as engines
    from titlesmith.generate import Probe
    from titlesmith.train import monitor

    settings = defaults("finetune") | {"model": model, "steps": steps, "learning_rate": rate, "seed": seed}
    settings |= {"batch_size": 8, "keep": "last", "validate_every": 0, "sample_every": 0, "save_every": 0}
    settings |= {"loss_floor": 0.0} | changed
    engine, watch = engines.start_engine(run, model, corpus, seed), monitor.Monitor(run, settings)
    engines.finetune(engine, corpus, settings, watch, Probe(corpus, settings))
    run.finish("finetune")


def defaults(stage: str) -> dict:
    """The parameters of a notebook."""
    from titlesmith.experiment import declared

    return {name: parameter.default for name, parameter in declared(stage).items()}


if __name__ == "__main__":
    main()
