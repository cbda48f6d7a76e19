"""What a command would run, and what that needs: ``titlesmith run --dry-run``."""

import shutil
from collections.abc import Iterator

from titlesmith import models
from titlesmith.experiment import Experiment
from titlesmith.models.devices import GIB
from titlesmith.pipeline import source
from titlesmith.runs import STAGES, Run, describe_changes, root

COPIES = 3  # of a checkpoint that are on the disk together: an old one, a new one, the best weights


def plan(experiment: Experiment, name: str | None, start: str | None, until: str) -> Iterator[str]:
    """Lines on the stages that `titlesmith.pipeline.chain` would run or skip with these arguments."""
    run, last, earlier = Run(name or experiment.name), STAGES.index(until), False
    for number, stage in enumerate(STAGES[: last + 1]):
        reasons = describe_changes(run, stage, experiment.settings[stage], source(stage))
        if start and number >= STAGES.index(start):
            reasons = ["--from or --force", *reasons]
        state = "runs: " + "; ".join(reasons) if reasons else "unchanged, skipped"
        if earlier and not reasons:
            state = "runs if an earlier result changes"
        seconds = run.record(stage).get("seconds")
        took = f" ({seconds} s last time)" if seconds is not None and (reasons or earlier) else ""
        yield f"[{number + 1}/{last + 1}] {stage}: {state}{took}"
        if stage == "finetune" and (reasons or earlier):
            yield from describe_needs(run, experiment)
        earlier = earlier or bool(reasons)


def describe_needs(run: Run, experiment: Experiment) -> Iterator[str]:
    """Memory and disk that a training needs, and what is free."""
    settings = experiment.settings["finetune"]
    model = settings["model"]
    hyperparameters = models.hyperparameters(model, experiment.settings["corpus"]["vocabulary"])
    memory = models.training_memory(hyperparameters, settings, settings["precision"] != "float32")
    count = models.num_parameters(hyperparameters)
    if settings["lora_rank"]:
        count = 8 * hyperparameters["n_layer"] * hyperparameters["n_embd"] * settings["lora_rank"]
    disk, free = COPIES * 12 * count, shutil.disk_usage(root()).free
    peak = run.record("finetune").get("peak_memory_bytes")
    before = f", {peak / GIB:.1f} GiB last time" if peak else ""
    yield (
        f"      memory: about {memory / GIB:.1f} GiB{before}; {models.available_memory() / GIB:.1f} GiB are free; "
        f"disk: up to {disk / 1e9:.2f} GB; {free / 1e9:.1f} GB are free"
    )
