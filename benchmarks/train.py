"""Trains GPT-2 124M on real titles with stock gpt-2-simple, titlesmith and transformers, and compares them.

    python benchmarks/train.py --rounds 3 --steps 12

The weights are random, in OpenAI's layout; the titles are those of eess.AS. Everything is measured on the processor, in
a separate process, one after the other, and in rounds, so that what else the machine does falls on all alike:

stock         `gpt_2_simple.finetune` as it comes: its CSV path, one row of 1,024 tokens, no accumulation, no sampling
titlesmith    the settings of experiments/gpt2-titles.yml: a softmax over the corpus's tokens and a sample of others
full          the same with `vocabulary: full`
transformers  `GPT2LMHeadModel` and torch's AdamW (fused, clipped at 1, no decay on biases), as many rows
              of the same documents packed one after the other, autocast to the type that titlesmith takes, not
              compiled; its softmax is over all tokens, as in `full`
product       products of matrices alone, in that type, through TensorFlow

Figures of time are medians over the steps after the first two of each process. The share of the matrix-product peak
takes 6 floating-point operations for each token and each parameter that takes part in a matrix product (attention's
products of activations, another 2%, are not counted), and the shape whose product is fastest. Figures whose keys end in
``_corpus_vocabulary`` are those of titlesmith as it comes.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("TITLESMITH_DATA", ROOT.parent / "shared" / "data"))
TITLES, VOCABULARY = DATA / "arxiv" / "eess.AS.tsv.xz", DATA / "gpt2-bpe"
SIZES = {
    "124M": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12},
    "small": {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 16, "n_head": 2, "n_layer": 1},
}
WARM_UP = 2  # steps that are not counted: they compile, and fill caches
RUN, LENGTH = "benchmark", 500  # steps of the run whose overhead is told
SUFFIXES = {  # what is measured, and the suffix of the keys of its figures
    "stock": "_stock",
    "titlesmith": "",
    "full_vocabulary": "_full_vocabulary",
    "transformers": "_transformers",
}
LINES = (
    ("seconds a step", "seconds_per_step", 1, ".3f"),
    ("processor seconds a step", "cpu_seconds_per_step", 1, ".3f"),
    ("tokens a second", "tokens_per_second", 1, ",.0f"),
    ("titles a second", "titles_per_second", 1, ".1f"),
    ("peak memory, GB", "peak_memory_bytes", 1e-9, ".2f"),
    ("seconds to the first step", "seconds_to_first_step", 1, ".1f"),
)
STEPS = {
    "titles_per_second_ratio_to_stock": 4.0,
    "tokens_per_second_ratio_to_transformers": 1.5,
    "peak_memory_ratio_to_stock": 0.65,
    "matmul_peak_share": 0.65,
}
BARS = {
    **STEPS,
    **{f"{key}_full_vocabulary": bar for key, bar in STEPS.items()},
    "titles_per_second_ratio_to_stock_corpus_vocabulary": 6.5,
    "peak_memory_ratio_to_stock_corpus_vocabulary": 0.5,
    "overhead_share": 0.1,
    "loss_difference_to_transformers": 1e-4,
}


class Clock:
    """Wall-clock and processor time from one `tick` to the next; what was before the first is told from the start."""

    def __init__(self):
        self.ticks, self.first = [], 0.0

    def tick(self) -> None:
        """Ends a step."""
        import psutil

        self.first = self.first or time.time() - psutil.Process().create_time()
        self.ticks.append((time.perf_counter(), time.process_time()))

    def figures(self, **more: object) -> dict:
        """Seconds of each step after the warm-up, and the process's peak memory until now."""
        seconds, cpu_seconds = np.diff(np.array(self.ticks)[WARM_UP - 1 :], axis=0).T.tolist()
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "first": self.first, "peak": peak()} | more


def peak() -> int:
    """The peak memory of this process in bytes."""
    from titlesmith.models import peak_memory  # imported last: it is not part of what is measured

    return peak_memory()


def prepare(folder: Path, size: str, steps: int) -> dict:
    """Makes weights, corpus, rows and settings; a model in OpenAI's layout, with no parameter at zero or one."""
    import shutil

    import tensorflow as tf
    from gpt_2_simple.src import model as gpt2

    from titlesmith import corpus
    from titlesmith.experiment import Experiment
    from titlesmith.harvest import harvest
    from titlesmith.runs import Run
    from titlesmith.train.gpt2 import precision
    from titlesmith.train.packing import PackedDataset

    tf1, model = tf.compat.v1, folder / "models" / size
    model.mkdir(parents=True)
    (model / "hparams.json").write_text(json.dumps(SIZES[size]), "utf-8")
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(VOCABULARY / name, model)
    hparams, generator = gpt2.default_hparams(), np.random.default_rng(1)
    hparams.override_from_dict(SIZES[size])
    with tf.Graph().as_default(), tf1.Session() as session:
        gpt2.model(hparams, X=tf1.placeholder(tf.int32, [1, None]))
        weights = {}
        for v in tf1.global_variables():  # as far from linear as a trained model: attention that is not even, say
            value = generator.normal(v.op.name.endswith("/g"), 0.05, v.shape).astype(np.float32)
            v.load(value, session)
            weights[v.op.name.removeprefix("model/")] = value
        tf1.train.Saver().save(session, str(model / "model.ckpt"))
    np.savez(folder / "weights.npz", **weights)

    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    asked = (f"model={size if size == '124M' else f'models/{size}'}", f"harvest.path={TITLES}")
    settings = Experiment.read(ROOT / "experiments" / "gpt2-titles.yml", asked).settings
    run = Run(RUN)
    run.begin("harvest", {})
    harvest(run, settings["harvest"])
    run.begin("corpus", {})
    built = corpus.build(run, settings["corpus"], model, SIZES[size]["n_ctx"])
    finetune = settings["finetune"] | {"steps": LENGTH, "precision": precision(settings["finetune"])}
    (folder / "finetune.json").write_text(json.dumps(finetune), "utf-8")

    titles = built.table("train").select(title="completion")
    titles.write_csv(folder / "titles.csv")  # as gpt-2-simple reads it: a header, then a title a line
    batch = finetune["batch_size"] * finetune["accumulate"]
    rows, plain = (
        PackedDataset(built.documents("train"), batch, finetune["block_size"], finetune["seed"], apart)
        for apart in (True, False)  # as the engine reads them where weights are given, and as transformers does
    )
    labels = np.full((steps, batch, finetune["block_size"]), -100)  # what torch leaves out
    for step in range(steps):
        packed = plain[step + 1]
        labels[step] = np.where(packed.weights > 0, packed.labels, -100)
    np.savez(folder / "rows.npz", ids=np.stack([plain[step + 1].ids for step in range(steps)]), labels=labels)
    blocks = sum(w.size for name, w in weights.items() if name.endswith("/w"))
    return {
        "rows": batch, "block": finetune["block_size"], "precision": finetune["precision"], "titles": len(titles),
        "per_step": {
            name: (len(titles) * batch / packed.num_rows, packed.num_targets * batch / packed.num_rows)
            for name, packed in (("titlesmith", rows), ("full_vocabulary", rows), ("transformers", plain))
        },
        "block_parameters": blocks, "every": {k: v for k, v in finetune.items() if k.endswith("_every")},
    }  # fmt: skip


def stock(folder: Path, size: str, steps: int) -> dict:
    """`gpt_2_simple.finetune`, left by an exception after ``steps``, so that it does not save."""
    import gpt_2_simple

    clock, session, printed = Clock(), gpt_2_simple.start_tf_sess(), StringIO()
    run = session.run

    def timed(fetches, *args, **kwargs):
        values = run(fetches, *args, **kwargs)
        if isinstance(fetches, tuple):  # (update, loss, summary): a training step
            clock.tick()
            if len(clock.ticks) == steps:
                raise StopIteration
        return values

    session.run = timed
    kept = {"model_dir": str(folder / "models"), "checkpoint_dir": str(folder / "stock"), "sample_every": 10**9}
    try:
        with redirect_stdout(printed):
            gpt_2_simple.finetune(
                session, str(folder / "titles.csv"), model_name=size, accumulate_gradients=1, save_every=10**9, **kept
            )
    except StopIteration:
        pass
    tokens = int(re.search(r"dataset has (\d+) tokens", printed.getvalue())[1])
    return clock.figures(tokens=tokens)


def _started(folder: Path, **changed: object) -> tuple:
    from titlesmith import corpus
    from titlesmith import train as engines
    from titlesmith.runs import Run

    run, settings = Run(RUN), json.loads((folder / "finetune.json").read_text("utf-8"))
    settings |= changed
    found = corpus.Corpus(run)
    return run, settings, found, engines.start_engine(run, settings["model"], found, settings["seed"])


def trained(folder: Path, steps: int, **changed: object) -> tuple:
    """the engine that runs steps as its loop takes them, the rows packed while it trains; and their clock."""
    from titlesmith.train.loop import learning_rate
    from titlesmith.train.packing import PackedDataset, prefetch

    clock, (_, settings, corpus, engine) = Clock(), _started(folder, **changed)
    batch = settings["batch_size"] * settings["accumulate"]
    documents = corpus.documents("train")
    rows = PackedDataset(documents, batch, settings["block_size"], settings["seed"], engine.masks_documents(settings))
    engine.prepare(corpus, settings)
    for step, some in islice(prefetch(rows, 1), steps):
        engine.train_step(some, learning_rate(step, settings))
        engine.step = step
        clock.tick()
    return engine, clock


def titlesmith(folder: Path, size: str, steps: int, **changed: str) -> dict:
    """The engine's steps."""
    engine, clock = trained(folder, steps, **changed)
    softmax = [engine._sampled.table, engine._sampled.others] if engine._sampled else engine._variables[1:2]
    return clock.figures(vocabulary=sum(int(t.shape[0]) for t in softmax))


def full_vocabulary(folder: Path, size: str, steps: int) -> dict:
    """`titlesmith` with the softmax over all tokens."""
    return titlesmith(folder, size, steps, vocabulary="full")


def loop(folder: Path, size: str, steps: int) -> dict:
    """Two steps of `Engine.finetune` with validation, texts and checkpoint at each; seconds of every part."""
    from titlesmith.generate import Probe
    from titlesmith.train.loop import finetune
    from titlesmith.train.monitor import Monitor

    every = {"steps": 2, "validate_every": 1, "sample_every": 1, "save_every": 1}
    run, settings, corpus, engine = _started(folder, **every)
    spent = {name: [] for name in ("mean_loss", "save_weights", "sample", "save_checkpoint", "load_weights")}

    def timed(method, seconds):
        def call(*args, **named):
            start = time.perf_counter()
            value = method(*args, **named)
            seconds.append(time.perf_counter() - start)
            return value

        return call

    sample = timed(Probe(corpus, settings), spent["sample"])
    for name in spent.keys() - {"sample"}:
        setattr(engine, name, timed(getattr(engine, name), spent[name]))
    finetune(engine, corpus, settings, Monitor(run, settings), sample)
    return {"spent": spent, "peak": peak()}


def _gpt2(folder: Path, size: str) -> object:
    from titlesmith.models.gpt2_checkpoint import to_transformers

    with np.load(folder / "weights.npz") as stored:
        model = to_transformers(stored, SIZES[size])
    model.config.use_cache = False
    return model


def _rows(folder: Path) -> tuple:
    import torch

    with np.load(folder / "rows.npz") as stored:
        return torch.from_numpy(stored["ids"]).long(), torch.from_numpy(stored["labels"])


def transformers(folder: Path, size: str, steps: int) -> dict:
    """The same steps in torch."""
    import torch

    clock, model, bf16 = Clock(), _gpt2(folder, size), torch.bfloat16
    settings = json.loads((folder / "finetune.json").read_text("utf-8"))
    groups = [
        {"params": [p for p in model.parameters() if (p.ndim > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, settings["weight_decay"]), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, settings["learning_rate"], fused=True)
    for ids, labels in zip(*_rows(folder), strict=True):
        with torch.autocast("cpu", bf16, enabled=settings["precision"] == "bfloat16"):
            loss = model(input_ids=ids, labels=labels, shift_labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.figures()


def product(folder: Path, size: str, steps: int) -> dict:
    """Operations a second in products of matrices: a large square, and the shapes of the model's own."""
    from titlesmith.models.devices import tensorflow  # set up as titlesmith has it

    tf = tensorflow()
    settings = json.loads((folder / "finetune.json").read_text("utf-8"))
    tokens, width = settings["batch_size"] * settings["block_size"], SIZES[size]["n_embd"]
    side = 4096 if size == "124M" else 256
    shapes = [(side, side, side), *((tokens, width, n * width) for n in (1, 3, 4)), (tokens, 4 * width, width)]
    rates = {}
    for m, k, n in (*shapes, (tokens, width, 50304)):  # the vocabulary as titlesmith pads it
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            a, b = (tf.compat.v1.Variable(tf.random.normal(s, dtype=settings["precision"])) for s in ((m, k), (k, n)))
            multiply, clock = tf.matmul(a, b).op, Clock()
            session.run(tf.compat.v1.global_variables_initializer())
            while len(clock.ticks) < 8 or clock.ticks[-1][0] - clock.ticks[WARM_UP][0] < 0.5:
                session.run(multiply)
                clock.tick()
        took = clock.figures()
        rates[f"{m} x {k} x {n}"] = [2 * m * k * n / median(took[key]) for key in ("seconds", "cpu_seconds")]
    return rates


def parity(folder: Path, size: str, steps: int) -> dict:
    """Mean losses of the first rows in float32, by the engine and by transformers."""
    import torch

    engine, model = _started(folder)[3], _gpt2(folder, size)
    with np.load(folder / "rows.npz") as stored:
        ids, labels = stored["ids"][0], stored["labels"][0]
    learned = (labels >= 0).astype(np.float32)
    rows = np.concatenate([ids, np.maximum(labels[:, -1:], 0)], axis=1)
    mine = float(engine.losses(rows, learned).sum() / learned.sum())
    ids, labels = (part[0] for part in _rows(folder))
    with torch.no_grad():
        return {"titlesmith": mine, "transformers": float(model(ids, labels=labels, shift_labels=labels).loss)}


PARTS = {f.__name__: f for f in (prepare, stock, titlesmith, full_vocabulary, transformers, product, loop, parity)}


def part(name: str, folder: Path, size: str, steps: int, script: str = __file__) -> dict:
    """Runs a part of a benchmark in a separate process."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "TITLESMITH_ROOT": str(folder), "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": "-1"
    }  # fmt: skip
    command = [
        sys.executable,
        Path(script).resolve(),
        "--part",
        name,
        "--folder",
        folder,
        "--model-size",
        size,
        "--steps",
        str(steps),
    ]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def figures(rounds: list[dict], titles: float, tokens: float) -> dict[str, float]:
    """What a part's steps took in all rounds together, where each learns so many titles and tokens."""
    seconds, cpu = (median(x for found in rounds for x in found[key]) for key in ("seconds", "cpu_seconds"))
    return {
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": cpu,
        "tokens_per_second": tokens / seconds,
        "titles_per_second": titles / seconds,
        "peak_memory_bytes": max(found["peak"] for found in rounds),
        "seconds_to_first_step": median(found["first"] for found in rounds),
    }


def overhead(spent: dict[str, list[float]], settings: dict) -> dict[str, float]:
    """Seconds beside the steps in a run of `LENGTH` of them: of each part the first time, then the last one's.

    Every validation is taken to be the best until then, whose weights are written.
    """
    often = (math.ceil(LENGTH / (settings[f"{name}_every"] or LENGTH)) for name in ("validate", "sample", "save"))
    validations, samples, saves = often
    counts = {
        "mean_loss": validations, "save_weights": validations + 1, "sample": samples, "save_checkpoint": saves,
        "load_weights": 1,
    }  # fmt: skip
    return {name: spent[name][0] + (count - 1) * spent[name][-1] for name, count in counts.items()}


def measure(folder: Path, size: str, steps: int, rounds: int) -> dict:
    """Runs all parts; returns their answers by name, ``skipped`` among them."""
    answers = {"prepare": part("prepare", folder, size, steps + WARM_UP)}
    skipped = [name for name in ("torch", "transformers") if not find_spec(name)]
    names = [name for name in (*SUFFIXES, "product") if name != "transformers" or not skipped]
    answers |= {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            answers[name].append(part(name, folder, size, steps + WARM_UP))
    if not skipped:
        answers["parity"] = part("parity", folder, size, steps)
    return answers | {"loop": part("loop", folder, size, steps), "skipped": skipped}


def compare(answers: dict, size: str) -> tuple[dict, dict]:
    """All figures, flat, and beside some of the ratios the same by processor time."""
    made, losses = answers["prepare"], answers.get("parity")
    learned = made["per_step"] | {"stock": (1024 * made["titles"] / answers["stock"][0]["tokens"], 1024)}
    found = {name: figures(answers[name], *learned[name]) for name in SUFFIXES if name in answers}
    rates = {s: np.median([found[s] for found in answers["product"]], axis=0).tolist() for s in answers["product"][0]}
    rate, shape = max((rates[shape][0], shape) for shape in rates)
    cpu_rate = max(by_clock[1] for by_clock in rates.values())
    ratios, by_cpu, flops = {}, {}, {}
    for name in ("titlesmith", "full_vocabulary"):
        mine, suffix = found[name], SUFFIXES[name]
        for other, what in (("stock", "titles_per_second"), ("transformers", "tokens_per_second")):
            key, their = f"{what}_ratio_to_{other}{suffix}", found.get(other)
            ratios[key] = their and mine[what] / their[what]
            busy = [f["cpu_seconds_per_step"] / f["seconds_per_step"] for f in (mine, their or mine)]
            by_cpu[key] = their and ratios[key] * busy[1] / busy[0]
        ratios[f"peak_memory_ratio_to_stock{suffix}"] = mine["peak_memory_bytes"] / found["stock"]["peak_memory_bytes"]
        parameters = made["block_parameters"] + answers[name][0]["vocabulary"] * SIZES[size]["n_embd"]
        flops[f"flops_per_step{suffix}"] = operations = 6 * made["rows"] * made["block"] * parameters
        ratios[f"matmul_peak_share{suffix}"] = operations / mine["seconds_per_step"] / rate
        by_cpu[f"matmul_peak_share{suffix}"] = operations / mine["cpu_seconds_per_step"] / cpu_rate
    for found_as in (ratios, by_cpu):
        found_as |= {
            f"{key}_corpus_vocabulary": value for key, value in found_as.items() if not key.endswith("_full_vocabulary")
        }
    parts = overhead(answers["loop"]["spent"], made["every"])
    parts["start"] = found["titlesmith"]["seconds_to_first_step"] - found["titlesmith"]["seconds_per_step"]
    spent = sum(parts.values())
    ratios["overhead_share"] = spent / (spent + LENGTH * found["titlesmith"]["seconds_per_step"])
    ratios["loss_difference_to_transformers"] = losses and abs(losses["titlesmith"] - losses["transformers"])
    absolute = {f"{key}{SUFFIXES[name]}": value for name, own in found.items() for key, value in own.items()}
    absolute |= flops | {
        "peak_memory_bytes_with_validation_and_checkpoints": answers["loop"]["peak"],
        "matmul_peak_flops_per_second": rate, "matmul_peak_shape": shape, "overhead_seconds": parts, "losses": losses,
        "tokens_per_title_stock": 1024 / learned["stock"][0], "titles_per_step": learned["titlesmith"][0],
        "by_processor_time": by_cpu,
    }  # fmt: skip
    return ratios, absolute


def show(ratios: dict, absolute: dict, answers: dict) -> None:
    """Prints the table."""
    made, names = answers["prepare"], [name for name in SUFFIXES if name in answers]
    print(f"{made['titles']:,} titles; {made['rows']} x {made['block']} tokens a step in {made['precision']}")
    print(f"\n{'':26}" + "".join(f"{name.replace('_', ' '):>19}" for name in names))
    for words, key, unit, form in LINES:
        values = (format(absolute[key + SUFFIXES[name]] * unit, form) for name in names)
        print(f"{words:26}" + "".join(f"{value:>19}" for value in values))
    if answers["skipped"]:
        print(f"The comparison with transformers is skipped: {' and '.join(answers['skipped'])} not installed.")
    parts, peak_of_loop = absolute["overhead_seconds"], absolute["peak_memory_bytes_with_validation_and_checkpoints"]
    flops, more = absolute["flops_per_step"], absolute["flops_per_step_full_vocabulary"]
    print(
        f"A title is {absolute['tokens_per_title_stock']:.1f} tokens to stock, whose step has 1,024; titlesmith learns "
        f"{absolute['titles_per_step']:.1f} titles a step.\n"
        f"Fastest product: {absolute['matmul_peak_shape']}, {absolute['matmul_peak_flops_per_second'] / 1e12:.3f} "
        f"TFLOP/s. A step, 6 x parameters in products x tokens: {flops / 1e12:.3f} TFLOP, with the full vocabulary "
        f"{more / 1e12:.3f}.\nBeside {LENGTH} steps, composed of the start and of parts timed in the real loop: "
        f"{sum(parts.values()):.0f} s ({', '.join(f'{name} {seconds:.1f}' for name, seconds in parts.items())}); "
        f"peak memory with all of them {peak_of_loop / 1e9:.2f} GB.\n"
    )
    for key, value in ratios.items():
        cpu, bar = absolute["by_processor_time"].get(key), f"bar {BARS[key]:g}" if key in BARS else ""
        words = "skipped" if value is None else f"{value:.3g}"
        print(f"{key:58}{words:>9}  {bar:10}{f'by processor time {cpu:.3g}' if cpu else ''}".rstrip())


def main() -> None:
    """Runs the comparison, or one part of it where the comparison asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=8, help="counted steps of each process")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which each is measured")
    parser.add_argument("--model-size", choices=SIZES, default="124M", help="small: to try the benchmark")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part](asked.folder, asked.model_size, asked.steps)))
        return
    if missing := [path for path in (TITLES, VOCABULARY) if not path.exists()]:
        raise SystemExit(f"{missing[0]} is missing: set TITLESMITH_DATA to the folder of the real data")
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        answers = measure(Path(folder), asked.model_size, asked.steps, asked.rounds)
    ratios, absolute = compare(answers, asked.model_size)
    show(ratios, absolute, answers)
    if asked.json:
        print(json.dumps(ratios | absolute))


if __name__ == "__main__":
    main()
