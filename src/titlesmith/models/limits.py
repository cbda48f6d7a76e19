"""Limits: settings of a training that a model or this machine does not allow."""

import shutil
from importlib.util import find_spec

from titlesmith.errors import RequestError
from titlesmith.models import hub


def check_training(settings: dict) -> None:
    """Checks the settings of the fine-tune stage against the model and this machine (RequestError)."""
    model, rank, quantize = settings["model"], settings["lora_rank"], settings["quantize"]
    rows, count = settings["batch_size"], settings["processes"]
    if not hub.is_hub(model):
        for key, off in (("lora_rank", 0), ("quantize", "none"), ("processes", 1)):
            if settings[key] != off:
                raise RequestError(f"finetune.{key}: only smollm2 and hf: models have it; set it to {off} for {model}")
        return
    hub.check_installed()
    if rank and model == hub.PREFIX + "scratch":
        raise RequestError("finetune.lora_rank: adapters need a pretrained model; set it to 0 for hf:scratch")
    if rows % count:
        raise RequestError(
            f"finetune.batch_size: {rows} rows cannot be divided by {count} processes; use {rows + -rows % count}"
        )
    if count > 1 and settings["sharding"] == "full" and quantize != "none":
        raise RequestError(f"finetune.sharding: {quantize} weights cannot be sharded; set it to none, or quantize")
    if quantize != "none" and not rank:
        raise RequestError(f"finetune.quantize: {quantize} weights cannot be trained; set finetune.lora_rank to 8")
    check_quantize(quantize)


def check_quantize(quantize: str) -> None:
    """Checks that this machine can hold weights in 8 or 4 bits (RequestError)."""
    if quantize != "none" and not find_spec("bitsandbytes"):
        raise RequestError(f"finetune.quantize: {quantize} needs pip install bitsandbytes; without it, set it to none")
    if quantize == "4bit" and not shutil.which("nvidia-smi"):
        raise RequestError("finetune.quantize: 4bit needs an NVIDIA GPU; set it to 8bit or none")
