"""Measures the overhead of a sweep: Dask, locks, sharing of stages, waiting.

    python benchmarks/sweep.py [--runs 100] [--workers N]

Trains small models on made-up papers, with all five notebooks; shared stages are executed once. A stage's time is the
duration of its notebook as papermill records it: kernel start, imports, cells. `sweep_overhead_share` is the time of
the complete sweep, from its plan to its end, over the sum of the stages' times divided by the workers, less 1.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
SMALL = (
    "harvest.num_papers=300",
    "corpus.vocabulary=500",
    "finetune.block_size=32",
    "finetune.validate_every=0",
    "finetune.sample_every=0",
    "finetune.save_every=0",
    "generate.count=3",
    "generate.max_tokens=24",
)


def main() -> None:
    """Prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=12, help="100 takes an hour on two cores")
    parser.add_argument("--workers", type=int, help="default: as many as fit")
    parser.add_argument("--steps", type=int, default=30, help="of each training")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        for name in ("notebooks", "experiments"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        os.environ["TITLESMITH_ROOT"] = folder
        found = measure(asked.runs, asked.workers, asked.steps)
    for key, value in found.items():
        print(f"{key:<24} {value:>10,.3f}" if isinstance(value, float) else f"{key:<24} {value:>10,}")
    print("target: sweep_overhead_share at most 0.1")
    if asked.json:
        print(json.dumps(found))


def measure(runs: int, workers: int | None, steps: int) -> dict:
    """Runs a sweep over learning rates, and measures its time and that of its stages."""
    from titlesmith import sweep
    from titlesmith.runs import STAGES, Run
    from titlesmith.sweep import cluster

    begun = time.perf_counter()
    rates = ",".join(f"{0.001 + 0.00001 * n:.5f}" for n in range(runs))
    base = (*SMALL, f"finetune.steps={steps}")
    plan = sweep.read("sample-titles", (f"finetune.learning_rate={rates}",), base, name="bench")
    workers = cluster.choose_num_workers(plan, workers, None)
    sweep.run(plan, workers=workers)
    seconds = time.perf_counter() - begun
    executed = [
        nbformat.read(run.executed(stage), 4).metadata.papermill.duration
        for run in (Run(point.name) for point in plan.points)
        for stage in STAGES
        if "taken_from" not in run.record(stage)
    ]
    return {
        "runs": runs,
        "workers": workers,
        "notebooks_executed": len(executed),
        "sweep_seconds": seconds,
        "stage_seconds": float(sum(executed)),
        "sweep_overhead_share": seconds / (sum(executed) / workers) - 1,
    }


if __name__ == "__main__":
    main()
