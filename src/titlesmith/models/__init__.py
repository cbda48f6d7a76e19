"""Models by name: what they are made of, where their files lie, what they need, and how they get here."""

from titlesmith.models import hub
from titlesmith.models.catalogue import (
    GPT2,
    HYPERPARAMETERS,
    SCRATCH,
    context,
    folder,
    hyperparameters,
    lacking,
    names,
    parameters,
    place,
    shapes,
    vocabulary,
)
from titlesmith.models.machine import (
    available,
    check_memory,
    check_processes,
    cores,
    device,
    fast_bfloat16,
    gpus,
    memory,
)

HUB_SCRATCH = hub.SCRATCH

__all__ = [
    "GPT2",
    "HUB_SCRATCH",
    "HYPERPARAMETERS",
    "SCRATCH",
    "available",
    "check_memory",
    "check_processes",
    "context",
    "cores",
    "device",
    "fast_bfloat16",
    "folder",
    "gpus",
    "hub",
    "hyperparameters",
    "lacking",
    "memory",
    "names",
    "parameters",
    "place",
    "shapes",
    "vocabulary",
]
