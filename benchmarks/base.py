"""The model `base` beside `scratch` on one category: held-out bits per byte, copies, size, and how fast it starts.

    python benchmarks/base.py --papers eess.AS.tsv.xz
    python benchmarks/base.py --papers eess.AS.tsv.xz --reference hf:FOLDER

Both experiments run with their own settings and generate 1,002 titles. ``--reference`` names a model that neither
trained on nor generated the texts. The time to the first titles is that of `titlesmith generate base -n 20` from the
start of its process, of five calls the median.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments import measure, prepare, show

EXPERIMENTS = ("scratch-titles", "archive-titles")
TEXTS = 334  # for each of three prefixes
CALLS = 5


def start_seconds() -> float:
    """Median seconds of a process that loads the base model and writes twenty titles."""
    command, seconds = [sys.executable, "-m", "titlesmith", "generate", "base", "-n", "20", "--prefix", "Neural"], []
    for _ in range(CALLS):
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def main() -> None:
    """Runs, measures and prints."""
    from titlesmith.models import base

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--papers", type=Path, required=True)
    parser.add_argument("--reference", default="", metavar="hf:FOLDER")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    papers = given.papers.resolve(strict=True)
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        prepare(Path(folder))
        rows = [measure(name, papers, given.reference, (f"generate.count={TEXTS}",)) for name in EXPERIMENTS]
        show(rows)
        scratch, tuned = rows
        found = {
            "test_bits_per_byte_ratio_base_to_scratch": tuned["test_bits_per_byte"] / scratch["test_bits_per_byte"],
            "training_seconds": tuned["training_seconds"],
            "copy_rate": tuned["copy_rate"],
            "artifact_rate": tuned["artifact_rate"],
            "file_mb": (base.FOLDER / base.WEIGHTS).stat().st_size / 1e6,
            "twenty_titles_seconds": start_seconds(),
        }
    print()
    for key, value in found.items():
        print(f"{key:<44}{value:>10.3f}")
    if given.json:
        print(json.dumps(found | {"experiments": rows}))


if __name__ == "__main__":
    main()
