"""Trains and generates on a GPU through titlesmith's transformers engine, beside a plain Trainer of transformers.

    python benchmarks/gpu.py

It needs torch, transformers and peft, and titlesmith's source beside it, installed or not. Models have the shapes of
published ones and random weights; documents are random ids, as long as titles. Every part has a separate process:

product   products of large square matrices in bfloat16, on random numbers: the card's peak
trainer   GPT-2 124M in `transformers.Trainer` with its defaults, but for bf16 and the rows of a step
train     the same model, rows and learning rate in the engine: its steps as its loop takes them, the rows packed while
          it trains, compiled as a training of `LONG` steps is
lora      adapters of rank 8 in a LLaMA of 7B parameters in bfloat16
generate  titles of 24 tokens from GPT-2 124M, in one call after a first one

Speeds are of all steps after the first ones, which compile and fill caches, in tokens that are read; where documents
are apart, a row teaches more of them than it reads. A token takes 6 floating-point operations
for each parameter (but for the table of positions, which takes part in no product), and 12 x layers x width x context
in attention (Chowdhery et al. 2022, appendix B).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WARM_UP, LONG, RANK, NEW = 5, 100_000, 8, 24
GPT2 = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
LLAMA = {  # Touvron et al. 2023, table 2
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048,
}  # fmt: skip
TINY_GPT2 = {"vocab_size": 301, "n_positions": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}
TINY_LLAMA = {
    "vocab_size": 301, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
LEAST = 40e9  # bytes of a card that holds a LLaMA of 7B in bfloat16 and what a step keeps
SETTINGS = {  # of the engine; rate, schedule, decay and clipping are the Trainer's defaults
    "seed": 1, "steps": LONG, "accumulate": 1, "learning_rate": 5e-5, "warmup_steps": 0, "schedule": "linear",
    "weight_decay": 0.0, "dropout": 0.0, "layers": "all", "vocabulary": "full", "precision": "bfloat16",
    "checkpointing": False, "lora_rank": 0, "lora_alpha": 16.0, "lora_dropout": 0.05, "lora_targets": [],
    "quantize": "none", "attention": "auto", "processes": 1, "sharding": "none",
}  # fmt: skip
BARS = {"tokens_per_second_ratio_to_trainer": 1.5, "matmul_peak_share": 0.4}


def model(kind: str, folder: Path, tiny: bool) -> object:
    """A model with random weights, made where it computes; its config.json goes to models/ of the folder."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() and not tiny else "cpu"
    torch.manual_seed(1)
    if kind == "gpt2":
        pdrop = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
        made = GPT2LMHeadModel(GPT2Config(**(TINY_GPT2 if tiny else GPT2), **pdrop)).to(device)
    else:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            made = LlamaForCausalLM(LlamaConfig(**(TINY_LLAMA if tiny else LLAMA)))
        torch.set_default_dtype(torch.float32)
    made.config.save_pretrained(folder / "models" / kind)
    return made


def engine(kind: str, folder: Path, tiny: bool) -> object:
    """The model in titlesmith's engine, with a vocabulary of as many ids that mean nothing."""
    from titlesmith.corpus.tokenizer import END, Tokenizer
    from titlesmith.train.huggingface import HuggingFaceEngine

    made = model(kind, folder, tiny)
    names = [*map(str, range(made.config.vocab_size - 2)), "Ċ", END]
    return HuggingFaceEngine(made, Tokenizer.of_gpt2({name: i for i, name in enumerate(names)}, []), f"hf:{kind}")


def documents(tokenizer: object) -> object:
    """As many documents of random ids as there are titles of eess.AS, as long as they, the n-th id as often as 1/n."""
    from titlesmith.corpus.documents import Documents

    generator = np.random.default_rng(1)
    ids = [len(tokenizer) - 2 - generator.random(n) for n in 2 + generator.poisson(13, 3000)]
    ids = [((len(tokenizer) - 2) ** (x % 1)).astype(int).tolist() for x in ids]
    return Documents.of(ids, np.array([(0, len(x) + 1) for x in ids]), tokenizer)


def cards_memory() -> int:
    """The most memory that this process has had on its device, in bytes."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now() -> float:
    """Seconds, once the device has done what it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def product(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Operations a second of square products, of each side the median of many."""
    import torch

    device, rates = "cpu" if tiny else "cuda", {}
    for side in (64, 128) if tiny else (4096, 8192, 16384):
        a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
        out, seconds = torch.empty_like(a), []
        for _ in range(WARM_UP + 20):
            start = now()
            for _ in range(4):  # in a row, so that starting one costs nothing
                torch.mm(a, b, out=out)
            seconds.append((now() - start) / 4)
        rates[side] = 2 * side**3 / float(np.median(seconds[WARM_UP:]))
    found = {"matmul_peak_flops_per_second": max(rates.values()), "matmul_peak_side": max(rates, key=rates.get)}
    return found | {"device": "processor" if tiny else torch.cuda.get_device_name(), "torch": torch.__version__}


def _trained(kind: str, folder: Path, rows: int, steps: int, tiny: bool, **changed: object) -> dict:
    from titlesmith.train import architectures
    from titlesmith.train.huggingface import is_worth_compiling
    from titlesmith.train.loop import learning_rate
    from titlesmith.train.packing import PackedDataset, prefetch

    trained = engine(kind, folder, tiny)
    settings = SETTINGS | {"model": f"hf:{kind}", "batch_size": rows, "block_size": 64 if tiny else 1024} | changed
    found = documents(trained.tokenizer)
    packed = PackedDataset(found, rows, settings["block_size"], settings["seed"], trained.masks_documents(settings))
    count = sum(p.numel() for p in trained.model.parameters())
    trained.prepare(None, settings)
    for step, batch in islice(prefetch(packed, 1), WARM_UP + steps):
        loss, _ = trained.train_step(batch, learning_rate(step, settings))
        trained.step = step
        if step == WARM_UP:
            start = now()
    rate = steps * rows * settings["block_size"] / (now() - start)
    compiled = architectures.can_compile() and is_worth_compiling(trained.model, settings)
    return {"tokens_per_second": rate, "peak": cards_memory(), "loss": loss, "parameters": count, "compiled": compiled}


def train(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """GPT-2 in the engine."""
    found, shape = _trained("gpt2", folder, rows, steps, tiny), TINY_GPT2 if tiny else GPT2
    products = found["parameters"] - shape["n_positions"] * shape["n_embd"]
    attention = 12 * shape["n_layer"] * shape["n_embd"] * shape["n_positions"]
    return found | {"flops_per_token": 6 * products + attention}


def lora(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Adapters in a LLaMA, a quarter of the rows a step."""
    import torch

    from titlesmith.errors import RequestError

    total = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else LEAST
    if total < LEAST:
        why = f"the card has {total / 1e9:.0f} GB, and it takes {LEAST / 1e9:.0f}"
        return {"skipped": f"LoRA in a LLaMA of 7B is skipped: {why}"}
    try:
        return _trained("llama", folder, max(1, rows // 4), steps, tiny, lora_rank=RANK, learning_rate=3e-4)
    except RequestError as error:
        return {"skipped": f"LoRA in a LLaMA of 7B is skipped: {error}"}


def trainer(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """GPT-2 in the Trainer, without titlesmith; the rows are packed before."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ids = np.load(folder / "rows.npy").astype(np.int64)
    data = [{"input_ids": row, "labels": row} for row in ids]  # the model itself shifts labels

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step in (WARM_UP, WARM_UP + steps):
                ticks.append(now())

    ticks = []
    arguments = TrainingArguments(
        str(folder / "trainer"), bf16=True, per_device_train_batch_size=rows, max_steps=WARM_UP + steps, use_cpu=tiny,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    done = Trainer(model("gpt2", folder, tiny), arguments, train_dataset=data, callbacks=[Clock()]).train()
    rate = steps * rows * ids.shape[1] / (ticks[1] - ticks[0])
    return {"tokens_per_second": rate, "peak": cards_memory(), "loss": done.training_loss}


def generate(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Titles from titlesmith's back end, none of which ends before its last token."""
    from titlesmith.generate import GenerationSettings
    from titlesmith.generate.huggingface import TransformersBackend

    trained, titles = engine("gpt2", folder, tiny), 20 if tiny else 1000
    backend = TransformersBackend(trained.model, trained.tokenizer)
    for seed in (1, 2):
        settings = GenerationSettings(count=titles, seed=seed, max_tokens=NEW, min_tokens=NEW)
        start = now()
        (completions,) = backend.generate([[backend.tokenizer.eos_id]], settings)
        seconds = now() - start
    assert len(completions) == titles and all(len(completion.ids) == NEW for completion in completions)
    return {"titles": titles, "titles_per_second": titles / seconds, "peak": cards_memory()}


def pack(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Writes the rows that the engine packs, as the Trainer reads them."""
    from titlesmith.corpus.tokenizer import END, Tokenizer
    from titlesmith.train.packing import PackedDataset

    shape = TINY_GPT2 if tiny else GPT2
    names = [*map(str, range(shape["vocab_size"] - 2)), "Ċ", END]
    found = documents(Tokenizer.of_gpt2({name: i for i, name in enumerate(names)}, []))
    packed = PackedDataset(found, rows, shape["n_positions"], SETTINGS["seed"], mask_documents=False)
    np.save(folder / "rows.npy", np.concatenate([packed[1 + step].ids for step in range(WARM_UP + steps)]))
    return {}


PARTS = {f.__name__: f for f in (pack, product, trainer, train, lora, generate)}


def part(name: str, folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Runs a part in a separate process, with one GPU or none."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    visible = "" if tiny else os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = os.environ | {
        "TITLESMITH_ROOT": str(folder), "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": visible
    }  # fmt: skip
    numbers = ["--rows", str(rows), "--steps", str(steps), *["--tiny"] * tiny]
    command = [sys.executable, Path(__file__).resolve(), "--part", name, "--folder", folder, *numbers]
    ended = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def measure(folder: Path, rows: int, steps: int, tiny: bool) -> dict:
    """Runs all parts; returns their answers by name."""
    answers = {}
    for name in PARTS:
        print(name, file=sys.stderr, flush=True)
        answers[name] = part(name, folder, rows, steps, tiny)
    return answers


def compare(answers: dict) -> dict:
    """All figures, flat."""
    made, peak = answers["train"], answers["product"]["matmul_peak_flops_per_second"]
    rates = {name: answers[name]["tokens_per_second"] for name in ("train", "trainer")}
    found = {"tokens_per_second_ratio_to_trainer": rates["train"] / rates["trainer"]}
    for name, suffix in (("train", ""), ("trainer", "_trainer")):
        found |= {
            f"matmul_peak_share{suffix}": rates[name] * made["flops_per_token"] / peak,
            f"tokens_per_second{suffix}": rates[name], f"peak_memory_bytes{suffix}": answers[name]["peak"],
            f"loss{suffix}": answers[name]["loss"],
        }  # fmt: skip
    adapters, written = answers["lora"], answers["generate"]
    found |= {
        "lora_tokens_per_second": adapters.get("tokens_per_second"), "lora_peak_memory_bytes": adapters.get("peak"),
        "titles_per_second": written["titles_per_second"], "titles": written["titles"],
        "generate_peak_memory_bytes": written["peak"], "flops_per_token": made["flops_per_token"],
        "parameters": made["parameters"], "lora_model_parameters": adapters.get("parameters"),
        "compiled": made["compiled"], "lora_compiled": adapters.get("compiled"),
    }  # fmt: skip
    return found | answers["product"]


def show(found: dict, answers: dict, rows: int) -> None:
    """Prints the table."""
    flops = found["matmul_peak_flops_per_second"]
    print(
        f"{found['device']}, torch {found['torch']}. Fastest bfloat16 product: {found['matmul_peak_side']} squared, "
        f"{flops / 1e12:.3g} TFLOP/s. {rows} rows a step; a token takes {found['flops_per_token'] / 1e6:.4g} MFLOP.\n"
    )
    print(f"{'':34}{'a second':>16}{'share of peak':>15}{'peak memory, GB':>17}")
    for words, suffix in (("GPT-2, plain Trainer, tokens", "_trainer"), ("GPT-2, titlesmith, tokens", "")):
        rate, share, memory = (
            found[key + suffix] for key in ("tokens_per_second", "matmul_peak_share", "peak_memory_bytes")
        )
        print(f"{words:34}{rate:>16,.0f}{share:>15.3f}{memory / 1e9:>17.2f}")
    if "skipped" in answers["lora"]:
        print(answers["lora"]["skipped"])
    else:
        words = f"LLaMA {found['lora_model_parameters'] / 1e6:,.2f}M, LoRA, tokens"
        print(f"{words:34}{found['lora_tokens_per_second']:>16,.0f}{found['lora_peak_memory_bytes'] / 1e9:>32.2f}")
    words, memory = f"GPT-2, {found['titles']} titles of {NEW} tokens", found["generate_peak_memory_bytes"]
    print(f"{words:34}{found['titles_per_second']:>16,.1f}{memory / 1e9:>32.2f}")
    print(f"\nCompiled: GPT-2 {found['compiled']}, LLaMA {found['lora_compiled']}.")
    for key, bar in BARS.items():
        print(f"{key:40}{found[key]:>9.3g}  bar {bar:g}")


def main() -> None:
    """Runs the comparison, or one part of it where the comparison asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=16, help="of 1,024 tokens, a step; adapters take a quarter")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each process")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the processor: to try the benchmark")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part](asked.folder, asked.rows, asked.steps, asked.tiny)))
        return
    import torch

    if not torch.cuda.is_available() and not asked.tiny:
        print("There is no GPU that torch can use here; --tiny tries the benchmark on the processor.", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        answers = measure(Path(folder), asked.rows, asked.steps, asked.tiny)
    found = compare(answers)
    show(found, answers, asked.rows)
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
