"""The machine: what it computes on, how much memory it has, and how much a training takes."""

import math
import os
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import psutil

from titlesmith.errors import RequestError
from titlesmith.models import hub
from titlesmith.models.catalogue import shapes
from titlesmith.models.hub import is_hub

GIB = 2**30
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Names of a control group's limit, use and, in memory.stat, of caches that the kernel gives back: versions 2 and 1.
LIMITS = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
# Bytes, see `memory`: of a process with TensorFlow; a parameter of the blocks, of embeddings that are trained, and that
# are not; a gradient in float32, and one that is summed.
PROCESS, BLOCK, EMBEDDING, FROZEN, FLOAT32, SUM = 1.12e9, 25, 38, 6, 6.4, 13
TORCH = 0.7e9  # bytes of a process with PyTorch
BYTES = 257  # entries of the smallest vocabulary: single bytes and the end of text
SHORTEST = 8  # tokens a row, the smallest finetune.block_size


@contextmanager
def hushed() -> Iterator[None]:
    """Closes the process's standard error for a moment.

    TensorFlow's C++ greets there with a dozen lines on instruction sets and missing GPUs, whatever
    TF_CPP_MIN_LOG_LEVEL says. Exceptions are not affected.
    """
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def tensorflow() -> ModuleType:
    """TensorFlow, imported when first asked for, because that takes seconds, and without its greeting."""
    with hushed():
        import tensorflow

        return tensorflow


def cores() -> str:
    """The processor, in words for people."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {found} core{'s' * (found != 1)}"


def fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def gpus() -> list:
    """The GPUs that TensorFlow sees, which asking does not take."""
    tf = tensorflow()
    with hushed():
        return tf.config.list_physical_devices("GPU")


def device() -> str:
    """What a training of TensorFlow's engine computes on, in words for people."""
    found = gpus()
    if not found:
        return cores()
    details = tensorflow().config.experimental.get_device_details(found[0])
    words = [f"GPU: {details.get('device_name', 'of unknown name')}"]
    if total := gpu_memory():
        words.append(f"{total / GIB:.0f} GiB")
    if details.get("compute_capability", (0, 0)) >= (8, 0):
        words.append("bf16")
    more = (
        f". TensorFlow's engine uses the first of {len(found)} GPUs; the transformers engine "
        "(model: hf:NAME) as many as finetune.processes says"
    )
    return ", ".join(words) + more * (len(found) > 1)


def gpu_memory() -> int | None:
    """Memory of the first visible NVIDIA GPU in bytes; None where there is none, or no driver's tool that says it."""
    tool = shutil.which("nvidia-smi")
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    if not tool:
        return None
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={first}"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    return int(answer.stdout) * 2**20 if answer.stdout.strip().isdigit() else None


def available() -> int:
    """Memory that this process can have in bytes, with what it has: of the machine, within its control groups."""
    rooms = [psutil.virtual_memory().available, *_rooms_of_groups()]
    return min(rooms) + psutil.Process().memory_info().rss


def _rooms_of_groups() -> Iterator[int]:
    """What each limit of a control group that this process is in leaves, such as a container's."""
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    for _, kinds, path in (line.split(":", 2) for line in lines):
        if kinds and "memory" not in kinds.split(","):
            continue
        top, (limit, used, cached) = (GROUPS / "memory", LIMITS[1]) if kinds else (GROUPS, LIMITS[2])
        own = top / path.lstrip("/")  # which is not there in a container that sees its own group as the top
        for group in (own, *own.parents):
            if group.is_relative_to(top) and (group / limit).exists():
                allowed = (group / limit).read_text().strip()
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                if allowed != "max":
                    yield int(allowed) - int((group / used).read_text()) + int(stat.get(cached, 0))


def memory(
    hyperparameters: dict,
    batch_size: int,
    block_size: int,
    *,
    bf16: bool = False,
    checkpointing: bool = False,
    accumulate: int = 1,
    layers: str = "all",
    used: int | None = None,
) -> int:
    """About the peak of a training's resident memory, in bytes.

    What a step keeps for backward follows from the graph: in each layer, of each token, two streams in float32 and
    sixteen widths of operands (normalized twice, queries, keys, values, attention, what the perceptron makes of it)
    beside the attention's weights; at the end four logits for each entry of the vocabulary, two of them in float32.

    What the process takes, and a parameter (weights, Adam's two moments, gradients, new values before they replace the
    old ones), is fitted to peaks measured on two CPU cores with random weights, from 1.4 to 7.1 GB: GPT-2 124M with
    1 x 64, 8 x 128, 16 x 128, 4 x 512 and 2 x 1,024 tokens, in both types, with checkpointing, accumulation, a
    vocabulary of 4,608 and frozen embeddings; 2 of its layers; 6 layers of width 1,024; ``scratch`` with 16 x 128.
    Peaks of the same training differ by some 5%, with the order in which two threads work; the figures are between 2%
    below and 13% above them. One that was not fitted, 124M with 8 x 256 in bfloat16, took 6.54 GB; the figure is 6.88.
    GPUs and larger models are extrapolated.

    Parameters
    ----------
    hyperparameters
        As in hparams.json.
    batch_size, block_size
        Rows, and tokens a row.
    bf16
        Whether the operands of matrix products are in bfloat16 rather than float32.
    checkpointing
        Whether the activations of a block are computed again rather than kept.
    accumulate
        Calls a step; more than one sum their gradients.
    layers
        What is trained: ``all``, or the blocks of the ``transformer`` alone.
    used
        Entries of the vocabulary that train, in a table of their own beside the whole; all where it is left out.
    """
    whole, used = hyperparameters["n_vocab"], used or hyperparameters["n_vocab"]
    width, depth, size = hyperparameters["n_embd"], hyperparameters["n_layer"], 2 if bf16 else 4
    counts = {name: math.prod(shape) for name, shape in shapes(hyperparameters | {"n_vocab": used}).items()}
    embeddings = counts["model/wte"] + counts["model/wpe"]
    blocks = sum(counts.values()) - embeddings
    trained = blocks + embeddings * (layers == "all")
    fixed = PROCESS + BLOCK * blocks + (EMBEDDING if layers == "all" else FROZEN) * embeddings
    fixed += SUM * trained * (accumulate > 1) + 4 * whole * width * (used < whole)
    streams = (8 + 16 * size) * width + size * hyperparameters["n_head"] * block_size
    activations = depth * (4 + size) * width + streams if checkpointing else depth * streams
    logits = (8 + 2 * size) * used
    update = 0 if bf16 else FLOAT32 * trained  # when the activations are gone
    return round(fixed + max(batch_size * block_size * (activations + logits), update))


def torch_memory(
    hyperparameters: dict,
    batch_size: int,
    block_size: int,
    *,
    bf16: bool = False,
    checkpointing: bool = False,
    layers: str = "all",
    lora_rank: int = 0,
    quantize: str = "none",
    **others: object,
) -> int:
    """About the peak of a training's memory in PyTorch, in bytes; `memory` is of TensorFlow.

    A parameter that trains takes 16 bytes: weight, gradient and Adam's two moments; one that does not, the bytes that
    it is stored in. In each layer a token's activations take 34 widths in bfloat16 (Korthikanti et al. 2023, without
    the attention's weights, which are not kept) and twice as much in float32; logits as in `memory`.

    Parameters
    ----------
    hyperparameters
        As in hparams.json, and ``parameters`` where their exact number is known.
    batch_size, block_size, bf16, checkpointing, layers
        As in `memory`.
    lora_rank, quantize
        Of the fine-tune stage.
    """
    count = hyperparameters.get("parameters") or sum(map(math.prod, shapes(hyperparameters).values()))
    width, depth, size = hyperparameters["n_embd"], hyperparameters["n_layer"], 2 if bf16 else 4
    if lora_rank:
        adapters = 8 * depth * width * lora_rank  # two pairs in each layer, some of them wider
        fixed = {"none": hyperparameters.get("itemsize", 4), "8bit": 1, "4bit": 0.55}[quantize] * count + 16 * adapters
    else:
        embeddings = hyperparameters["n_vocab"] * width if layers == "transformer" else 0
        fixed = 16 * count - 12 * embeddings
    fixed += TORCH + 2 * count * (bf16 and quantize == "none")  # copies that a step's products read
    activations = depth * size * width + 17 * size * width if checkpointing else depth * 17 * size * width
    return round(fixed + batch_size * block_size * (activations + (8 + 2 * size) * hyperparameters["n_vocab"]))


def check_memory(
    hyperparameters: dict,
    settings: dict,
    bf16: bool | None = None,
    used: int | None = None,
    gpu: bool | None = None,
) -> None:
    """Checks that a training fits, before it takes memory; what is not known yet counts as what takes least.

    Parameters
    ----------
    hyperparameters
        As in hparams.json.
    settings
        Of the fine-tune stage: ``model batch_size block_size`` and, where it has them, ``checkpointing accumulate
        layers vocabulary precision``.
    bf16, used
        As in `memory`; None where they are not known yet.
    gpu
        Whether the training runs on a GPU. None where TensorFlow was not asked: then a machine that may have one is
        left to the stage itself.

    Raises
    ------
    RequestError
        It does not; the message has the largest batch and block that do.
    """
    if gpu is None and shutil.which("nvidia-smi"):
        return
    room, where = (gpu_memory(), "on the GPU") if gpu else (available(), "free here")
    model, batch, block = settings["model"], settings["batch_size"], settings["block_size"]
    estimate = torch_memory if is_hub(model) else memory
    keys = {"checkpointing", "accumulate", "layers", *({"lora_rank", "quantize"} if is_hub(model) else ())}
    asked = {key: settings[key] for key in keys & settings.keys()}
    asked["bf16"] = settings.get("precision") != "float32" if bf16 is None else bf16
    if settings.get("vocabulary") in (("corpus",) if model == "scratch" else ("corpus", "auto")):
        asked["used"] = used or BYTES

    def takes(batch: int, block: int, **changed: bool) -> int:
        return estimate(hyperparameters, batch, block, **asked | changed)

    if room is None or takes(batch, block) <= room:
        return
    rows = bisect_right(range(1, batch), room, key=lambda n: takes(n, block))
    tokens = SHORTEST - 1 + bisect_right(range(SHORTEST, hyperparameters["n_ctx"] + 1), room, key=lambda n: takes(1, n))
    hints = [f"With this block_size, the largest batch_size that fits is {rows}"] if rows else []
    if tokens >= SHORTEST:
        hints.append(f"With one row, the largest block_size that fits is {tokens}")
    if asked.get("checkpointing") is False and takes(batch, block, checkpointing=True) <= room:
        hints.append("With finetune.checkpointing=true it fits as it is, and takes about a third longer")
    raise RequestError(
        f"finetune: training {model} with batch_size {batch} and block_size {block} takes about "
        f"{takes(batch, block) / GIB:.1f} GiB of memory; {room / GIB:.1f} are {where}. "
        + (". ".join(hints) or "Not even one row fits: take a smaller model")
    )


def check_processes(settings: dict) -> None:
    """Checks that the processes of a training (``processes``, 1 where it is left out) can share its work.

    Raises
    ------
    RequestError
        The model's engine has one process only, or the rows of a batch are no multiple of the processes.
    """
    count = settings.get("processes", 1)
    if count == 1:
        return
    if not hub.is_hub(settings["model"]):
        raise RequestError(
            f"finetune.processes: {settings['model']} trains in one process; several train a model of the transformers "
            "library together: set model: hf:scratch, or hf:NAME-OR-PATH"
        )
    if settings["batch_size"] % count:
        below = settings["batch_size"] // count * count
        sizes = " or ".join(str(size) for size in (below, below + count) if size)
        raise RequestError(
            f"finetune.batch_size: {settings['batch_size']} rows cannot be shared by {count} processes; {sizes} can"
        )
    if settings["sharding"] == "full" and settings["quantize"] != "none":
        raise RequestError(
            f"finetune.sharding: weights in {settings['quantize']} cannot be spread over processes: "
            "set sharding=none or quantize=none"
        )
