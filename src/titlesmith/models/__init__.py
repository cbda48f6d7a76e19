"""Models by name: what they are made of, where their files lie, what they need, and how they get here."""

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
from titlesmith.models.machine import available, check_memory, device, gpus, memory

__all__ = [
    "GPT2",
    "HYPERPARAMETERS",
    "SCRATCH",
    "available",
    "check_memory",
    "context",
    "device",
    "folder",
    "gpus",
    "hyperparameters",
    "lacking",
    "memory",
    "names",
    "parameters",
    "place",
    "shapes",
    "vocabulary",
]
