"""Trains adapters (LoRA) in a pretrained model with titlesmith, and with a plain loop of peft and transformers.

    python benchmarks/pretrained.py --model smollm2
    python benchmarks/pretrained.py --model hf:FOLDER --rounds 3 --steps 12

titlesmith  8 rows of 128 tokens, documents packed and masked from each other
packed      the plain loop on as many rows of the same documents, one after the other and not masked
padded      the plain loop on batches of as many titles, each batch padded to its longest title
corpus      titlesmith with all weights, and a softmax over the corpus's tokens and a sample of others
full        the same with a softmax over all tokens

The titles are those of eess.AS. The first three train adapters of rank 8 next to the same matrices, with AdamW,
clipping at 1, and autocast to bfloat16 where the processor multiplies it in hardware. Each runs in a separate process
on the processor, one after the other, in rounds, so that the machine's other work affects all alike. A token counts if
it is predicted: padding does not count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where it is imported rather than run
from train import ROOT, TITLES, WARM_UP, Clock, figures

RUN, RANK, ROWS, BLOCK = "benchmark", 8, 8, 128
TARGETS = ["q_proj", "v_proj"]
NAMES = ("titlesmith", "packed", "padded", "corpus", "full")
PLAIN = ("packed", "padded")


def prepare(folder: Path, model: str) -> dict:
    """Makes the corpus; returns how many titles and predicted tokens a step of `ROWS` rows has."""
    from titlesmith import corpus, models
    from titlesmith.experiment import Experiment
    from titlesmith.harvest import harvest
    from titlesmith.runs import Run

    given = (f"model={model}", f"harvest.path={TITLES}", f"finetune.lora_rank={RANK}", f"finetune.block_size={BLOCK}")
    given += (f"finetune.lora_targets=[{', '.join(TARGETS)}]", f"finetune.batch_size={ROWS}", "finetune.steps=100")
    settings = Experiment.read(ROOT / "experiments" / "smollm2-titles.yml", given).settings
    (folder / "settings.json").write_text(json.dumps(settings["finetune"]), "utf-8")
    run = Run(RUN)
    run.begin("harvest", {})
    harvest(run, settings["harvest"])
    run.begin("corpus", {})
    built = corpus.build(run, settings["corpus"], models.vocabulary(model), models.context(model))
    dataset = packed_rows(built, settings["finetune"])
    steps = dataset.num_rows / ROWS
    return {"titles": len(built.documents("train")) / steps, "tokens": dataset.num_targets / steps}


def packed_rows(built, settings: dict, mask: bool = True):
    """The training documents in rows."""
    from titlesmith.train.packing import PackedDataset

    return PackedDataset(built.documents("train"), ROWS, BLOCK, settings["seed"], mask)


def titlesmith(built, settings: dict, steps: int, titles: int) -> Clock:
    """Steps of titlesmith's engine."""
    from titlesmith import train as engines
    from titlesmith.runs import Run

    engine = engines.start_engine(Run(RUN), settings["model"], built, settings["seed"])
    dataset, clock = packed_rows(built, settings), Clock()
    engine.prepare(built, settings)
    for step in range(steps):
        engine.train_step(dataset[step + 1], settings["learning_rate"])
        engine.step += 1
        clock.tick()
    return clock


def corpus(built, settings: dict, steps: int, titles: int) -> Clock:
    """Steps on all weights with the sampled softmax."""
    return titlesmith(built, settings | {"lora_rank": 0, "vocabulary": "corpus"}, steps, titles)


def full(built, settings: dict, steps: int, titles: int) -> Clock:
    """Steps on all weights with the softmax over all tokens."""
    return titlesmith(built, settings | {"lora_rank": 0, "vocabulary": "full"}, steps, titles)


def packed(built, settings: dict, steps: int, titles: int) -> Clock:
    """Steps of the plain loop on packed rows."""
    import numpy as np

    dataset = packed_rows(built, settings, mask=False)
    batches = (dataset[step + 1] for step in range(steps))
    rows = ((b.ids, np.where(b.weights > 0, b.labels, -100), None) for b in batches)
    return plain_loop(settings, rows)


def padded(built, settings: dict, steps: int, titles: int) -> Clock:
    """Steps of the plain loop on padded titles."""
    import numpy as np

    documents, generator = built.documents("train"), np.random.default_rng(settings["seed"])

    def batches():
        for _ in range(steps):
            batch = [documents[i] for i in generator.choice(len(documents), titles, replace=False)]
            length = max(map(len, batch)) - 1
            ids, labels, mask = (np.full((titles, length), fill) for fill in (0, -100, 0))
            for row, document in enumerate(batch):
                ids[row, : len(document) - 1], labels[row, : len(document) - 1] = document[:-1], document[1:]
                mask[row, : len(document) - 1] = 1
            yield ids, labels, mask

    return plain_loop(settings, batches())


def plain_loop(settings: dict, batches) -> Clock:
    """A loop as tutorials of peft and transformers have it; labels are those of the next token."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from titlesmith import models

    base = AutoModelForCausalLM.from_pretrained(models.folder(settings["model"]), dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=settings["lora_alpha"], target_modules=TARGETS, task_type="CAUSAL_LM")
    model, clock, bf16 = get_peft_model(base, config), Clock(), models.has_fast_bfloat16()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"])
    for arrays in batches:
        ids, labels, mask = (None if a is None else torch.from_numpy(a).long() for a in arrays)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, shift_labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock


def run_side(side: str, folder: Path, steps: int, titles: int) -> dict:
    """Runs one side in this process."""
    from titlesmith.corpus import Corpus
    from titlesmith.runs import Run

    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    function = dict(zip(NAMES, (titlesmith, packed, padded, corpus, full), strict=True))[side]
    return function(Corpus(Run(RUN)), settings, steps, titles).figures()


def in_process(*arguments: object) -> dict:
    """Runs this file in a separate process."""
    ended = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{arguments} failed:\n{ended.stderr[-4000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def compare(per_step: dict, rounds: dict[str, list[dict]]) -> dict:
    """Ratios to both plain loops, and the figures of each side."""
    sides = {side: figures(of, per_step["titles"], per_step["tokens"]) for side, of in rounds.items()}
    pairs = {f"to_peft_{side}": ("titlesmith", side) for side in PLAIN} | {"corpus_to_full_vocabulary": NAMES[3:]}
    ratios = {
        f"{key}_ratio_{name}": sides[ours][of] / sides[theirs][of]
        for name, (ours, theirs) in pairs.items()
        for key, of in (("tokens_per_second", "tokens_per_second"), ("peak_memory", "peak_memory_bytes"))
    }
    return ratios | {f"{key}_{side}": value for side, of in sides.items() for key, value in of.items()}


def main() -> None:
    """Runs the comparison, or one side of it in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", choices=("prepare", *NAMES), help=argparse.SUPPRESS)
    parser.add_argument("--titles", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "prepare":
        print(json.dumps(prepare(Path(os.environ["TITLESMITH_ROOT"]), given.model)))
    elif given.part:
        folder = Path(os.environ["TITLESMITH_ROOT"])
        print(json.dumps(run_side(given.part, folder, given.steps, given.titles)))
    else:
        print(json.dumps(measure(given.model, given.steps, given.rounds), indent=1))


def measure(model: str, steps: int, rounds: int) -> dict:
    """Runs all sides in rounds."""
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        for name in ("notebooks", "models"):
            if (ROOT / name).is_dir():
                (Path(folder) / name).symlink_to(ROOT / name)
        os.environ |= {"TITLESMITH_ROOT": folder, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": "-1"}
        per_step = in_process("--part", "prepare", "--model", model)
        answers: dict[str, list[dict]] = {side: [] for side in NAMES}
        for number in range(rounds):
            for side in NAMES:
                print(f"round {number + 1} of {rounds}: {side}", file=sys.stderr, flush=True)
                options = ("--steps", steps + WARM_UP, "--titles", round(per_step["titles"]))
                answers[side].append(in_process("--part", side, *options))
    return compare(per_step, answers)


if __name__ == "__main__":
    main()
