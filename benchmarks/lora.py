"""Trains GPT-2 124M through low-rank adapters (LoRA) and in full, through titlesmith's transformers engine.

    python benchmarks/lora.py --rounds 3 --steps 12

The weights are random, of a model that the benchmark makes (`hf:` and its folder); the titles are those of eess.AS, the
settings those of experiments/gpt2-titles.yml, and of the adapters the defaults. Each side has a separate process on
the processor, one after the other, in rounds, as in train.py.

A step through adapters computes no gradients of the weights, a third of the operations of a full step, and adapters
add products of their own; what it saves in memory is gradients and Adam's moments, 12 bytes a parameter.
"""

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where it is imported rather than run
import train
from train import LINES, ROOT, RUN, SIZES, TITLES, VOCABULARY, WARM_UP

MODEL, RANK = "random", 8  # the model's folder below models/; the rank of ChatGenTitle's adapters
SIDES = ("full", "lora")


def prepare(folder: Path, size: str, steps: int) -> dict:
    """Makes the model, corpus and settings."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from titlesmith import corpus, models
    from titlesmith.corpus.pretrained import as_pretrained
    from titlesmith.corpus.tokenizer import Tokenizer
    from titlesmith.experiment import Experiment
    from titlesmith.harvest import harvest
    from titlesmith.runs import Run
    from titlesmith.train.huggingface import precision
    from titlesmith.train.packing import PackedDataset

    shape = SIZES[size]
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=shape["n_vocab"],
        n_positions=shape["n_ctx"],
        **{key: shape[key] for key in ("n_embd", "n_head", "n_layer")},
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "models" / MODEL)
    as_pretrained(Tokenizer.load(VOCABULARY)).save(folder / "models" / MODEL)

    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    asked = (f"model=hf:{MODEL}", f"harvest.path={TITLES}")
    settings = Experiment.read(ROOT / "experiments" / "gpt2-titles.yml", asked).settings
    run = Run(RUN)
    run.begin("harvest", {})
    harvest(run, settings["harvest"])
    run.begin("corpus", {})
    built = corpus.build(run, settings["corpus"], models.vocabulary(f"hf:{MODEL}"), shape["n_ctx"])
    finetune = settings["finetune"] | {"precision": precision(settings["finetune"])}
    (folder / "finetune.json").write_text(json.dumps(finetune), "utf-8")
    batch = finetune["batch_size"] * finetune["accumulate"]
    rows = PackedDataset(built.documents("train"), batch, finetune["block_size"], finetune["seed"], mask_documents=True)
    count = len(built.table("train"))
    return {
        "rows": batch, "block": finetune["block_size"], "precision": finetune["precision"], "titles": count,
        "titles_per_step": count * batch / rows.num_rows, "tokens_per_step": rows.num_targets * batch / rows.num_rows,
    }  # fmt: skip


def full(folder: Path, size: str, steps: int, rank: int = 0) -> dict:
    """Steps of the full model."""
    engine, clock = train.trained(folder, steps, lora_rank=rank)
    return clock.figures(parameters=sum(p.numel() for p in engine.model.parameters() if p.requires_grad))


def lora(folder: Path, size: str, steps: int) -> dict:
    """Steps of adapters."""
    return full(folder, size, steps, RANK)


PARTS = {f.__name__: f for f in (prepare, full, lora)}


def part(name: str, folder: Path, size: str, steps: int) -> dict:
    """Runs a part in a separate process."""
    return train.part(name, folder, size, steps, __file__)


def measure(folder: Path, size: str, steps: int, rounds: int) -> dict:
    """Runs all parts; returns their answers by name."""
    answers = {"prepare": part("prepare", folder, size, steps)} | {name: [] for name in SIDES}
    for number in range(rounds):
        for name in SIDES:
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            answers[name].append(part(name, folder, size, steps + WARM_UP))
    return answers


def compare(answers: dict) -> tuple[dict, dict]:
    """The ratios, and all plain figures, flat."""
    made = answers["prepare"]
    found = {name: train.figures(answers[name], made["titles_per_step"], made["tokens_per_step"]) for name in SIDES}
    found = {name: own | {"trained_parameters": answers[name][0]["parameters"]} for name, own in found.items()}
    ratios = {
        f"lora_{what}_ratio_to_full": found["lora"][key] / found["full"][key]
        for what, key in (("tokens_per_second", "tokens_per_second"), ("peak_memory", "peak_memory_bytes"))
    }
    absolute = {f"{key}_{name}": value for name, own in found.items() for key, value in own.items()}
    busy = [found[name]["cpu_seconds_per_step"] for name in SIDES]
    return ratios, absolute | {"precision": made["precision"], "lora_ratio_by_processor_time": busy[0] / busy[1]}


def show(ratios: dict, absolute: dict, answers: dict) -> None:
    """Prints the table."""
    made, lines = answers["prepare"], (("trained parameters, millions", "trained_parameters", 1e-6, ".2f"), *LINES)
    print(f"{made['titles']:,} titles; {made['rows']} x {made['block']} tokens a step in {made['precision']}")
    print(f"\n{'':30}" + "".join(f"{name:>12}" for name in SIDES))
    for words, key, unit, form in lines:
        print(f"{words:30}" + "".join(f"{format(absolute[f'{key}_{name}'] * unit, form):>12}" for name in SIDES))
    print(f"\nBy processor time, adapters are {absolute['lora_ratio_by_processor_time']:.3g} times as fast.")
    for key, value in ratios.items():
        print(f"{key:42}{value:>9.3g}")


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
    if missing := [name for name in ("torch", "transformers", "peft") if not find_spec(name)]:
        raise SystemExit(f"{' and '.join(missing)} not installed: pip install 'titlesmith[hf]'")
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        answers = measure(Path(folder), asked.model_size, asked.steps, asked.rounds)
    ratios, absolute = compare(answers)
    show(ratios, absolute, answers)
    if asked.json:
        print(json.dumps(ratios | absolute))


if __name__ == "__main__":
    main()
