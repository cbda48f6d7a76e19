"""Generates titles with stock gpt-2-simple, titlesmith and transformers, and compares them.

    python benchmarks/generate.py --titles 100 --rounds 1

The weights have the size and layout of GPT-2 124M. They are random, except that texts are as long as titles of eess.AS
(benchmarks/ending.py). Every text continues one prefix to its end or for `LIMIT` tokens, titlesmith's default for
titles. Each side runs in a separate process on the processor, one after the other, in rounds. Loading and the first
call are not counted, except for stock, where every call adds to the graph:

stock         `gpt_2_simple.generate`, one call for all titles, batches of ten, with prefix and truncation as in its
              documentation. It cannot stop at the end of a text and samples as many tokens as requested. It spells the
              end in seven tokens, so for texts of equal length it needs six tokens more than `LIMIT`
titlesmith    `Backend.generate`, one call for all titles after a first one: CTranslate2, 8-bit integers
transformers  `GPT2LMHeadModel.generate`, in bfloat16 where the processor multiplies it; all titles in one batch, after
              a first call
repeated      consecutive calls of `Backend.generate` for ten titles. Other programs on the machine slow down single
              calls, so the fastest of the last ten calls is compared with the fastest of ten early ones
quality       perplexity on test titles of a model trained on the titles of eess.AS, in float32 and in 8-bit integers

Ratios are of titles a second. The ratio of tokens a second (`..._equal_length`) is the ratio for titles of equal
length.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from statistics import median

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))  # if it is imported
import ending

import train
from train import ROOT, RUN, SIZES, TITLES, VOCABULARY

START, END = "<|startoftext|>", "<|endoftext|>"  # what gpt-2-simple puts around each text of a table
LIMIT, PREFIX, BATCH = 48, "Neural", 10  # tokens of each text after its prefix; titles that stock samples together
SETTINGS = {"temperature": 0.7, "top_k": 40}
WINDOW = 10  # calls
TRAINED = "trained"  # the run whose perplexity is measured
SUFFIXES = {"stock": "_stock", "titlesmith": "", "transformers": "_transformers"}
BARS = {
    "titles_per_second_ratio_to_stock": 25.0,
    "titles_per_second_ratio_to_transformers": 3.2,
    "int8_perplexity_ratio": 1.01,
    "late_calls_ratio_to_early": 1.1,
    "late_calls_memory_ratio_to_early": 1.1,
}


def figures(seconds: float, cpu: float, titles: int, **more: object) -> dict:
    """The measurements of a side."""
    return {"seconds": seconds, "cpu_seconds": cpu, "titles": titles, "peak": train.peak()} | more


def timed(call, titles: int) -> dict:
    """Measurements of a call that returns the number of sampled tokens of each title, its end included."""
    start, cpu = time.perf_counter(), time.process_time()
    lengths = call()
    return figures(time.perf_counter() - start, time.process_time() - cpu, titles, new_tokens=lengths)


def prepare(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Weights in OpenAI's layout, and a run with them as its model."""
    from titlesmith.corpus import Corpus
    from titlesmith.generate import GenerationSettings, save_backend
    from titlesmith.runs import Run
    from titlesmith.train.gpt2 import GPT2Engine

    made, model = train.prepare(folder, size, 1), folder / "models" / size
    run, engine = Run(RUN), GPT2Engine.load(model, resume=False)
    lengths = np.diff(Corpus(run).documents("train").starts.astype(np.int64)) - 1
    ending.teach(engine, lengths, GenerationSettings(max_tokens=LIMIT, **SETTINGS))
    for file in model.glob("model.ckpt*"):
        file.unlink()
    engine.save_weights(model)
    np.savez(folder / "weights.npz", **engine.weights())
    for stage in ("harvest", "corpus"):
        run.finish(stage)
    run.begin("finetune", {"model": size})
    engine.save_weights(run / "model")
    save_backend(engine, run)
    run.finish("finetune")
    given = len(engine.tokenizer.encode(PREFIX))
    new = lengths[lengths >= given] - given + 1
    return {
        "precision": made["precision"], "tokens_per_title": float(new.mean()),
        "tokens_of_999_in_1000_titles": float(np.quantile(new, 0.999)),
    }  # fmt: skip


def stock(folder: Path, size: str, titles: int, calls: int) -> dict:
    """`gpt_2_simple.generate`."""
    import gpt_2_simple
    from gpt_2_simple.src.encoder import get_encoder

    encoder, prefix = get_encoder(str(folder / "models" / size)), START + PREFIX
    given, end = (len(encoder.encode(text)) for text in (prefix, END))
    session, fetched = gpt_2_simple.start_tf_sess(), []
    with redirect_stdout(StringIO()):
        gpt_2_simple.load_gpt2(session, model_name=size, model_dir=str(folder / "models"))
    run = session.run
    session.run = lambda *args, **kwargs: fetched.append(run(*args, **kwargs)) or fetched[-1]

    def call():
        gpt_2_simple.generate(
            session, model_name=size, model_dir=str(folder / "models"), prefix=prefix, length=LIMIT - 1 + end, seed=1,
            nsamples=titles, batch_size=BATCH, temperature=SETTINGS["temperature"], top_k=SETTINGS["top_k"],
            return_as_list=True, truncate=END, include_prefix=False,
        )  # fmt: skip
        return [len(ids) - given + 1 for out in fetched for ids in out]  # it returns all but the first

    return timed(call, titles)


def _calls(titles: int):
    """A function of a seed that generates titles and returns how many tokens each has."""
    from titlesmith.generate import GenerationSettings, open_backend
    from titlesmith.runs import Run

    backend = open_backend(Run(RUN))
    prompts = [[backend.tokenizer.eos_id, *backend.tokenizer.encode(PREFIX)]]
    settings = {"count": titles, "max_tokens": LIMIT, **SETTINGS}

    def call(seed: int) -> list[int]:
        (completions,) = backend.generate(prompts, GenerationSettings(seed=seed, **settings))
        return [len(completion.ids) + completion.finished for completion in completions]

    return call


def titlesmith(folder: Path, size: str, titles: int, calls: int) -> dict:
    """`Backend.generate`."""
    call, start = _calls(titles), time.perf_counter()
    call(1)
    first = time.perf_counter() - start
    return timed(lambda: call(2), titles) | {"first": first}


def transformers(folder: Path, size: str, titles: int, calls: int) -> dict:
    """`GPT2LMHeadModel.generate`."""
    import torch

    from titlesmith.corpus.tokenizer import Tokenizer

    kind = json.loads((folder / "finetune.json").read_text("utf-8"))["precision"]
    model = train._gpt2(folder, size).to(getattr(torch, kind)).eval()
    model.config.use_cache = model.generation_config.use_cache = True
    tokenizer = Tokenizer.load(folder / "models" / size)
    prompt, end = [[tokenizer.eos_id, *tokenizer.encode(PREFIX)]], tokenizer.eos_id
    options = {"max_new_tokens": LIMIT, "do_sample": True, "eos_token_id": end, "pad_token_id": end}
    options |= SETTINGS

    def call():
        ids = torch.tensor(prompt * titles)
        with torch.inference_mode():
            rows = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] :]
        return [row.index(end) + 1 if end in row else len(row) for row in rows.tolist()]

    call()
    return timed(call, titles)


def repeated(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Seconds, processor seconds and memory in bytes after each of several calls for the same texts."""
    call, process, rows = _calls(BATCH), psutil.Process(), []
    for _ in range(calls):
        measured = timed(lambda: call(1), BATCH)
        rows.append((measured["seconds"], measured["cpu_seconds"], process.memory_info().rss))
    return dict(zip(("seconds", "cpu_seconds", "memory"), zip(*rows, strict=True), strict=True))


def quality(folder: Path, size: str, titles: int, calls: int) -> dict:
    """Perplexities on real test titles of a model trained on real titles, in float32 and in 8-bit integers."""
    from titlesmith import corpus
    from titlesmith.experiment import Experiment
    from titlesmith.finetune import finetune_run
    from titlesmith.generate import open_backend
    from titlesmith.harvest import harvest
    from titlesmith.models import context
    from titlesmith.runs import Run
    from titlesmith.train import load_engine

    steps = 150 if size == "124M" else 2
    every = [f"finetune.{name}_every=0" for name in ("validate", "sample", "save")]
    overrides = (f"harvest.path={TITLES}", f"finetune.steps={steps}", *every)
    settings = Experiment.read(ROOT / "experiments" / "scratch-titles.yml", overrides).settings
    run = Run(TRAINED)
    run.begin("harvest", {})
    harvest(run, settings["harvest"])
    run.begin("corpus", {})
    built = corpus.build(run, settings["corpus"], None, context=context("scratch"))
    run.begin("finetune", {"model": size})
    with redirect_stdout(sys.stderr):
        finetune_run(run, settings["finetune"])
    run.finish("finetune")
    engine = load_engine(run)
    # The log-probability of every token of some titles after the tokens before it, by both
    documents = built.documents("test")
    some = [documents[i] for i in range(min(200, len(documents)))]
    prompts = [[engine.tokenizer.eos_id, *ids[:n].tolist()] for ids in some for n in range(len(ids))]
    logprobs = open_backend(run).next_token_logprobs(prompts)[np.arange(len(prompts)), np.concatenate(some)]
    nats, tokens = engine.document_losses(documents, np.arange(len(some)))
    full, int8 = float(np.exp(nats.sum() / tokens.sum())), float(np.exp(-logprobs.mean()))
    return {"full": full, "int8": int8, "titles": len(some), "steps": steps}


PARTS = {f.__name__: f for f in (prepare, stock, titlesmith, transformers, repeated, quality)}


def part(name: str, folder: Path, size: str, titles: int, calls: int) -> dict:
    """Runs a part in a separate process."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "TITLESMITH_ROOT": str(folder), "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"
    }  # fmt: skip
    numbers = ["--titles", str(titles), "--calls", str(calls)]
    command = [sys.executable, Path(__file__).resolve(), "--part", name, "--folder", folder, "--model-size", size]
    ended = subprocess.run([*command, *numbers], env=environment, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure(folder: Path, size: str, titles: int, calls: int, rounds: int) -> dict:
    """Runs all parts; returns their answers by name, ``skipped`` among them."""
    needs = {"transformers": ("torch", "transformers")}
    skipped = [name for name, modules in needs.items() if not all(map(find_spec, modules))]
    answers = {"prepare": part("prepare", folder, size, titles, calls)} | {name: [] for name in SUFFIXES}
    for number in range(rounds):
        for name in SUFFIXES:
            if name not in skipped:
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                answers[name].append(part(name, folder, size, titles, calls))
    for name in ("repeated", "quality"):
        if name not in skipped:
            print(name, file=sys.stderr, flush=True)
            answers[name] = part(name, folder, size, titles, calls)
    return answers | {"skipped": skipped}


def compare(answers: dict) -> tuple[dict, dict]:
    """The ratios, and all other measurements."""
    rates, absolute, cpu, tokens = {}, {}, {}, {}
    for name, suffix in SUFFIXES.items():
        if rounds := answers[name]:
            rates[name] = median(r["titles"] / r["seconds"] for r in rounds)
            cpu[name] = median(r["cpu_seconds"] / r["titles"] for r in rounds)
            tokens[name] = float(np.mean([r["new_tokens"] for r in rounds]))
            absolute |= {
                f"titles_per_second{suffix}": rates[name], f"cpu_seconds_per_title{suffix}": cpu[name],
                f"new_tokens_per_title{suffix}": tokens[name],
                f"most_new_tokens{suffix}": max(n for r in rounds for n in r["new_tokens"]),
                f"peak_memory_bytes{suffix}": max(r["peak"] for r in rounds),
            }  # fmt: skip
    pairs = {
        "titles_per_second_ratio_to_stock": ("titlesmith", "stock"),
        "titles_per_second_ratio_to_transformers": ("titlesmith", "transformers"),
    }
    both = {key: pair for key, pair in pairs.items() if set(pair) <= rates.keys()}
    ratios = dict.fromkeys(BARS) | {key: rates[a] / rates[b] for key, (a, b) in both.items()}
    absolute |= {f"{key}_equal_length": ratios[key] * tokens[a] / tokens[b] for key, (a, b) in both.items()}
    by_cpu = {key: cpu[b] / cpu[a] for key, (a, b) in both.items()}
    # The first call is slower: it reads the files
    repeated = answers["repeated"]
    late = {key: min(values[-WINDOW:]) / min(values[1 : WINDOW + 1]) for key, values in repeated.items()}
    ratios["late_calls_ratio_to_early"] = late["seconds"]
    by_cpu["late_calls_ratio_to_early"] = late["cpu_seconds"]
    ratios["late_calls_memory_ratio_to_early"] = late["memory"]
    if measured := answers.get("quality"):
        ratios["int8_perplexity_ratio"] = measured["int8"] / measured["full"]
        absolute |= {"perplexity": measured["full"], "perplexity_int8": measured["int8"]}
    absolute |= answers["prepare"] | {"seconds_per_call": repeated["seconds"], "by_processor_time": by_cpu}
    return ratios, absolute


def show(ratios: dict, absolute: dict, answers: dict) -> None:
    """Prints the table."""
    print(
        f"A title has {absolute['tokens_per_title']:.1f} tokens after its prefix, its end included; 999 of 1,000 "
        f"have {absolute['tokens_of_999_in_1000_titles']:.0f} at most; the limit is {LIMIT}.\n"
    )
    print(f"{'':14}{'titles a second':>16}{'processor s a title':>21}{'new tokens, most':>18}{'peak memory, GB':>17}")
    for name, suffix in SUFFIXES.items():
        if name in answers["skipped"]:
            print(f"{name:14}skipped: it is not installed")
            continue
        keys = ("titles_per_second", "cpu_seconds_per_title", "new_tokens_per_title", "most_new_tokens")
        rate, cpu, tokens, most, peak = (absolute[key + suffix] for key in (*keys, "peak_memory_bytes"))
        print(f"{name:14}{rate:>16.2f}{cpu:>21.3f}{tokens:>12.1f}{most:>6}{peak / 1e9:>17.2f}")
    seconds = absolute["seconds_per_call"]
    print(f"\nMatrix products of transformers in {absolute['precision']}.")
    early, late = min(seconds[1 : WINDOW + 1]), min(seconds[-WINDOW:])
    print(f"{len(seconds)} calls for {BATCH} titles: early {early:.2f} s, late {late:.2f} s")
    if measured := answers.get("quality"):
        print(
            f"Perplexity on {measured['titles']} test titles after {measured['steps']} steps of scratch: "
            f"{measured['full']:.3f}, in 8-bit integers {measured['int8']:.3f}"
        )
    print()
    for key, value in ratios.items():
        words, cpu = "skipped" if value is None else f"{value:.4g}", absolute["by_processor_time"].get(key)
        print(f"{key:44}{words:>9}  bar {BARS[key]:<8g}{f'by processor time {cpu:.3g}' if cpu else ''}".rstrip())
        if equal := absolute.get(f"{key}_equal_length"):
            print(f"{'  for titles of equal length':44}{equal:>9.4g}{'':14}by processor time {cpu * equal / value:.3g}")


def main() -> None:
    """Runs the comparison, or one part of it in its separate process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--titles", type=int, default=100, help="titles of each side, a multiple of ten")
    parser.add_argument("--calls", type=int, default=50, help="consecutive calls, at least 2")
    parser.add_argument("--rounds", type=int, default=1, help="number of measurements of each side, in turns")
    parser.add_argument("--model-size", choices=SIZES, default="124M", help="small: to try the benchmark")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        sizes = arguments.model_size, arguments.titles, arguments.calls
        print(json.dumps(PARTS[arguments.part](arguments.folder, *sizes)))
        return
    if arguments.titles % BATCH or arguments.calls < 2:
        parser.error(f"--titles is a multiple of {BATCH}, and --calls at least 2")
    if missing := [path for path in (TITLES, VOCABULARY) if not path.exists()]:
        raise SystemExit(f"{missing[0]} is missing: set TITLESMITH_DATA to the folder of the real data")
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        answers = measure(Path(folder), arguments.model_size, arguments.titles, arguments.calls, arguments.rounds)
    ratios, absolute = compare(answers)
    show(ratios, absolute, answers)
    if arguments.json:
        print(json.dumps(ratios | absolute))


if __name__ == "__main__":
    main()
