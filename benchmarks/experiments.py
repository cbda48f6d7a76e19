"""Experiments side by side on one category: time, perplexity, bits per byte, and how the generated texts compare.

    python benchmarks/experiments.py --papers eess.AS.tsv.xz scratch-titles archive-titles smollm2-titles
    python benchmarks/experiments.py --papers eess.AS.tsv.xz --reference hf:FOLDER smollm2-titles

Each experiment runs with its own settings in a separate project and generates 252 texts. ``--reference`` names a model
that neither trained on nor generated the texts; bits per byte under it are measured for generated texts and for texts
by people.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = 84  # for each of three prefixes
SHOWN = 10  # texts in the result


def measure(name: str, papers: Path, reference: str = "", overrides: tuple[str, ...] = ()) -> dict:
    """Runs an experiment in the project of TITLESMITH_ROOT and returns its measurements."""
    from titlesmith.experiment import Experiment, find
    from titlesmith.pipeline import chain
    from titlesmith.train import monitor

    given = (f"harvest.path={papers}", f"generate.count={TEXTS}", f"evaluate.reference_model={reference}", *overrides)
    run = chain(Experiment.read(find(name), given), echo=lambda line: print(f"{name}: {line}", flush=True))
    training, metrics, history = run.record("finetune"), run.metrics, monitor.read(run / "history.csv")
    valid = {row["step"]: row["valid_loss"] for row in history if row["valid_loss"] is not None}
    return {
        "experiment": name,
        "model": training["settings"]["model"],
        "training_seconds": history[-1]["seconds"],
        "steps": training["steps"],
        "kept_step": training["kept_step"],
        "valid_loss_of_kept_step_nats_per_token": valid.get(training["kept_step"]),
        "test_perplexity": metrics["perplexity"]["test"],
        "test_bits_per_byte": metrics["bits_per_byte"]["test"],
        "classifier_accuracy": metrics.get("classifier_accuracy"),
        "classifier_accuracy_people": metrics["human"].get("classifier_accuracy"),
        "reference_bits_per_byte": metrics.get("reference_bits_per_byte"),
        "reference_bits_per_byte_people": metrics["human"].get("reference_bits_per_byte"),
        "copy_rate": metrics["copy_rate"],
        "artifact_rate": metrics["artifact_rate"],
        "texts": [row["text"] for i, row in enumerate(run.texts) if i % TEXTS < SHOWN],
    }


def prepare(folder: Path) -> None:
    """Makes a project in an empty folder, and makes titlesmith use it."""
    for name in ("notebooks", "experiments"):
        shutil.copytree(ROOT / name, folder / name)
    models = ROOT / "models"
    if models.is_dir():  # downloads that are here already
        (folder / "models").symlink_to(models)
    os.environ["TITLESMITH_ROOT"] = str(folder)


def show(rows: list[dict]) -> None:
    """Prints a column for each experiment, then its texts."""
    for key in rows[0]:
        if key != "texts":
            values = (f"{row[key]:.3f}" if isinstance(row[key], float) else str(row[key]) for row in rows)
            print(f"{key:<40}", *(f"{value:>16}" for value in values))
    for row in rows:
        print(f"\n{row['experiment']}", *row["texts"], sep="\n  ")


def main() -> None:
    """Runs, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--papers", type=Path, required=True)
    parser.add_argument("--reference", default="", metavar="hf:FOLDER")
    parser.add_argument("-p", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    papers = given.papers.resolve(strict=True)
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        prepare(Path(folder))
        rows = [measure(name, papers, given.reference, tuple(given.p)) for name in given.experiments]
    for row in rows:
        row["test_bits_per_byte_ratio_to_first"] = row["test_bits_per_byte"] / rows[0]["test_bits_per_byte"]
    show(rows)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
