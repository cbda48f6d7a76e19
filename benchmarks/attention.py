"""Should training read each document alone, or on from one into the next? Perplexity after both.

    python benchmarks/attention.py

No pretrained weights are needed: a small GPT-2 is trained from scratch on titles of cs.CL with each setting of
`finetune.attention`, and from the weights of `row` it is fine-tuned on titles of eess.AS with each. Perplexities are of
the test split, every title alone, as texts are sampled. Half an hour on two cores, or less with --steps.
"""

import math
import statistics
from pathlib import Path

from vocabulary import build, train, trial

SETTINGS = ("row", "document")
TRAININGS = ("from_scratch", "fine_tuned")


def main() -> None:
    """Trains, measures and prints."""
    trial(__doc__, 1000, compare, show)


def show(found: dict) -> None:
    """Prints the perplexities."""
    for row in found["runs"]:
        print("seed {seed}  {training:>12}  {attention:>8}  test perplexity {perplexity:8.2f}".format(**row))
    for training in TRAININGS:
        ratio = found[f"test_perplexity_ratio_document_to_row_{training}"]
        better = "document" if ratio < 1 else "row"
        print(f"document / row, {training.replace('_', ' ')}, means over seeds: {ratio:.4f}: {better} is better")


def compare(folder: Path, steps: int, seeds: range) -> dict:
    """Perplexities of both settings for each seed, from scratch and fine-tuned, and the ratios of their means."""
    from titlesmith import train as engines

    first, runs = build("first", "cs.CL", None), []
    places = {"from_scratch": (first, "scratch", steps, 2e-3)}
    for seed in seeds:
        for training in TRAININGS:
            for attention in SETTINGS:
                (run, corpus), model, count, rate = places[training]
                run.clear("finetune")
                run.begin("finetune", {"model": model})
                train(run, corpus, model, count, rate, seed, attention=attention)
                test = math.exp(engines.load_engine(run).mean_loss(corpus.documents("test")))
                runs.append({"seed": seed, "training": training, "attention": attention, "perplexity": test})
                if training == "from_scratch" and "fine_tuned" not in places:
                    engines.load_engine(run).save_weights(folder / "models" / "first")
                    second = build("second", "eess.AS", folder / "models" / "first")
                    places["fine_tuned"] = (second, "models/first", steps // 4, 5e-4)
    ratios = {}
    for training in TRAININGS:
        means = [
            statistics.mean(r["perplexity"] for r in runs if (r["training"], r["attention"]) == (training, attention))
            for attention in SETTINGS
        ]
        ratios[f"test_perplexity_ratio_document_to_row_{training}"] = means[1] / means[0]
    return {"runs": runs} | ratios


if __name__ == "__main__":
    main()
