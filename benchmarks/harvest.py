"""Harvests large snapshots, beside polars alone streaming the same columns to Parquet.

    python benchmarks/harvest.py --records 100000 2500000
    python benchmarks/harvest.py --format parquet

For each number of records it makes a snapshot in a temporary folder (1.6 kB a record; three times that of free disk is
needed), harvests all of it in a separate process, and lets polars alone read and write the same columns in another.
Of `ROUNDS` turns the fastest counts. Peak memory is that of the whole process, Python and its modules included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import snapshot

ROUNDS = 2
MEASURED = """
import json, os, resource, sys, time
import polars as pl
from titlesmith.harvest import harvest
from titlesmith.harvest.snapshot import SCHEMA
from titlesmith.runs import Run

def bare(path):
    table = pl.scan_parquet(path) if path.endswith("parquet") else pl.scan_ndjson(path, schema=SCHEMA)
    table.select(*SCHEMA).sink_parquet("bare.parquet")
    return pl.scan_parquet("bare.parquet").select(pl.len()).collect().item()

def convert(path):  # to the columns of data sets on the hub
    versions = {"versions": pl.List(pl.Struct({"version": pl.String, "created": pl.String}))}
    pl.scan_ndjson(path, schema=SCHEMA | versions).sink_parquet(path.replace(".json", ".parquet"))

def ours(path):
    settings = {"source": "snapshot", "path": path, "categories": [], "since": "", "until": "", "max_results": 0}
    settings |= {"encoding": "utf-8"}
    return harvest(run, settings).counts["kept"]

run = Run("benchmark")
run.begin("harvest", {})
start, before = time.perf_counter(), os.times()
papers = globals()[sys.argv[1]](sys.argv[2])
seconds, after = time.perf_counter() - start, os.times()
print(json.dumps({
    "papers": papers,
    "seconds": seconds,
    "cpu_seconds": after.user + after.system - before.user - before.system,
    "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def measure(what: str, path: Path) -> dict:
    """Runs a function of `MEASURED` in a separate process, in the folder of the snapshot."""
    environment = os.environ | {"TITLESMITH_ROOT": str(path.parent), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", MEASURED, what, path.name]
    done = subprocess.run(command, env=environment, cwd=path.parent, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def compare(records: int, form: str) -> dict[str, dict]:
    """The fastest of `ROUNDS` turns of each, taken alternately."""
    with tempfile.TemporaryDirectory() as folder:
        path = snapshot.write(Path(folder) / "snapshot.json", records)
        if form == "parquet":
            measure("convert", path)  # in a separate process, because a process has at least the peak of its parent
            path = path.with_suffix(".parquet")
        turns = [{what: measure(what, path) for what in ("bare", "ours")} for _ in range(ROUNDS)]
    best = {what: min((turn[what] for turn in turns), key=lambda found: found["seconds"]) for what in turns[0]}
    if best["ours"]["papers"] != records:
        sys.exit(f"{best['ours']['papers']:,} of {records:,} papers were harvested")
    return best


def main() -> None:
    """Prints the comparison for each number of records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 2_500_000], help="how large, rising")
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl", help="of the snapshot")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found = {}
    print(f"{'records':>10} {'rows/s':>9} {'seconds':>8} {'polars':>8} {'ratio':>6} {'CPU ratio':>9} {'peak MB':>8}")
    for records in arguments.records:
        found[records] = best = compare(records, arguments.format)
        ours, bare = best["ours"], best["bare"]
        print(
            f"{records:>10,} {records / ours['seconds']:>9,.0f} {ours['seconds']:>8.1f} {bare['seconds']:>8.1f} "
            f"{ours['seconds'] / bare['seconds']:>6.2f} {ours['cpu_seconds'] / bare['cpu_seconds']:>9.2f} "
            f"{ours['peak_resident_bytes'] / 1e6:>8,.0f}",
            flush=True,
        )
    small, large = (found[size] | {"records": size} for size in (arguments.records[0], arguments.records[-1]))
    growth = large["ours"]["seconds"] / large["records"] * small["records"] / small["ours"]["seconds"]
    print(f"a record of the largest takes {growth:.2f} times as long as one of the smallest")
    if arguments.json:
        figures = {
            "records": large["records"],
            "rows_per_second": large["records"] / large["ours"]["seconds"],
            "time_ratio_to_polars": large["ours"]["seconds"] / large["bare"]["seconds"],
            "cpu_time_ratio_to_polars": large["ours"]["cpu_seconds"] / large["bare"]["cpu_seconds"],
            "peak_resident_bytes": max(size["ours"]["peak_resident_bytes"] for size in found.values()),
            "time_per_record_ratio_large_to_small": growth,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
