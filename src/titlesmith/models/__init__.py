"""Models by name: catalogue, downloads, memory estimates, and the devices that they run on."""

from titlesmith.models.catalogue import (
    BASE,
    GPT2,
    HYPERPARAMETERS,
    PUBLISHED,
    RANDOM,
    SCRATCH,
    context,
    describe,
    folder,
    hyperparameters,
    missing_files,
    model_path,
    names,
    num_parameters,
    shapes,
    vocabulary,
)
from titlesmith.models.devices import (
    available_memory,
    cpu_count,
    cpu_name,
    device_name,
    gpus,
    has_fast_bfloat16,
    peak_memory,
    release_memory,
)
from titlesmith.models.download import fetch
from titlesmith.models.limits import check_training
from titlesmith.models.memory import check_memory, max_logits, training_memory
from titlesmith.models.openings import measure_openings
