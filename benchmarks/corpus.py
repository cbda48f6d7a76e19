"""Builds corpora of abstracts from large snapshots, and compares the tokenizing with bare `tokenizers`.

    python benchmarks/corpus.py --records 100000 2500000

For each number of records it makes a snapshot in a temporary folder (1.6 kB a record; four times that of free disk is
needed), harvests it, and builds the corpus (title to abstract, GPT-2's vocabulary, a context of 1,024) in a process of
its own. Then, in turns, papers of the largest are read, cleaned, tokenized and written as the corpus does it, and
`encode_batch` of the library alone, on all cores, encodes the very same texts from memory. Peak memory is that of the
whole process, Python and its modules included; there are no others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import snapshot

from titlesmith.experiment import declared

TURNS, TURN = 5, 20_000  # of the comparison, and papers in each
HARVEST = """
import json, sys
from titlesmith.harvest import harvest
from titlesmith.runs import Run

run = Run("benchmark")
run.begin("harvest", {})
harvest(run, json.loads(sys.argv[1]))
"""
BUILD = """
import json, resource, sys, time
from pathlib import Path
from titlesmith import corpus
from titlesmith.runs import Run

run = Run("benchmark")
run.begin("corpus", {})
start = time.perf_counter()
built = corpus.build(run, json.loads(sys.argv[1]), Path(sys.argv[2]), 1024)
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "documents": sum(split["documents"] for split in built.counts),
    "tokens": sum(split["tokens"] for split in built.counts),
}))
"""


def measure(folder: Path, records: int) -> dict:
    """Makes a snapshot, harvests it, and measures how its corpus is built."""
    path = snapshot.write(folder / "snapshot.json", records)
    _run(folder, HARVEST, _settings("harvest", source="snapshot", path=path.name))
    path.unlink()
    gpt2 = str(snapshot.DATA.resolve() / "gpt2-bpe")
    return json.loads(_run(folder, BUILD, _settings("corpus", template="title-to-abstract"), gpt2))


def _settings(stage: str, **changes: str) -> str:
    return json.dumps({name: parameter.default for name, parameter in declared(stage).items()} | changes)


def _run(folder: Path, code: str, *arguments: str) -> str:
    environment = os.environ | {"TITLESMITH_ROOT": str(folder)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, cwd=folder, stdout=subprocess.PIPE, check=True, text=True).stdout


def compare(folder: Path, records: int) -> list[float]:
    """How much faster than `tokenizers` alone the corpus tokenizes, turn by turn."""
    import numpy as np
    import polars as pl
    from tokenizers import Tokenizer as Bare
    from tokenizers import models, pre_tokenizers
    from tqdm import tqdm

    from titlesmith.corpus.building import write_split
    from titlesmith.corpus.layout import TokenLayout
    from titlesmith.corpus.papers import Papers
    from titlesmith.corpus.select import Selection
    from titlesmith.corpus.template import template
    from titlesmith.corpus.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(snapshot.DATA / "gpt2-bpe")
    settings = json.loads(_settings("corpus", template="title-to-abstract")) | {"context": 1024}
    papers = Papers(folder / "runs" / "benchmark" / "papers.parquet", template("title-to-abstract"), settings)
    layout = TokenLayout(tokenizer, "ids", has_prompt=True)
    bare = Bare(models.BPE(vocab=tokenizer.vocabulary, merges=tokenizer.merges))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ratios = []
    for turn in range(TURNS):
        wanted = np.zeros(records, bool)
        wanted[turn * records // TURNS :][:TURN] = True
        start = time.perf_counter()
        with tqdm(disable=True) as bar:
            selection = Selection(wanted.copy(), None, {})
            write_split(folder / "turn.bin", papers.batches(wanted), layout, settings, selection, bar)
        ours = time.perf_counter() - start
        texts = pl.read_parquet(folder / "turn.parquet", columns=["prompt", "completion"])
        prompts, completions = (texts[column].to_list() for column in texts.columns)
        start = time.perf_counter()
        bare.encode_batch(prompts)
        bare.encode_batch(completions)
        ratios.append((time.perf_counter() - start) / ours)
    return ratios


def main() -> None:
    """Prints the figures for each number of records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 2_500_000], help="how large, rising")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    found = {}
    print(f"{'records':>10} {'documents':>10} {'tokens':>13} {'seconds':>8} {'tokens/s':>10} {'peak MB':>8}")
    for records in arguments.records:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            found[records] = figures = measure(folder, records)
            print(
                f"{records:>10,} {figures['documents']:>10,} {figures['tokens']:>13,} {figures['seconds']:>8.1f} "
                f"{figures['tokens'] / figures['seconds']:>10,.0f} {figures['peak_resident_bytes'] / 1e6:>8,.0f}",
                flush=True,
            )
            if records == arguments.records[-1]:
                ratios = compare(folder, records)
    small, large = arguments.records[0], arguments.records[-1]
    growth = found[large]["seconds"] / large * small / found[small]["seconds"]
    rate = statistics.median(ratios)
    print(f"a record of the largest takes {growth:.2f} times as long as one of the smallest")
    print(f"{rate:.2f} times the rate of tokenizers alone (turns: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    if arguments.json:
        figures = {
            "records": large,
            "tokens_per_second": found[large]["tokens"] / found[large]["seconds"],
            "tokenize_rate_ratio_to_tokenizers": rate,
            "peak_resident_bytes": max(figures["peak_resident_bytes"] for figures in found.values()),
            "time_per_record_ratio_large_to_small": growth,
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
