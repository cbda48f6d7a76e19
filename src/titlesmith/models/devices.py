"""Devices: the processor, the GPUs, and how much memory this process may use."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import psutil

GIB = 2**30
CGROUP_ROOT, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discards what C++ code writes to standard error, such as TensorFlow's reports on instruction sets and GPUs."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def tensorflow() -> ModuleType:
    """Imports TensorFlow, which takes seconds, without its startup messages."""
    with silence_stderr():
        import tensorflow

        return tensorflow


def cpu_count() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor, in words for people."""
    return f"CPU, {cpu_count()} core{'s' * (cpu_count() != 1)}"


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def peak_memory() -> int | None:
    """The peak resident memory of this process in bytes; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def release_memory() -> None:
    """Returns freed memory to the system. Without it, SmolLM2 grew from 8 to 13 GB in 150 steps of 8x512 tokens."""
    with suppress(OSError, AttributeError):  # another system, or another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def gpus() -> list:
    """The GPUs that TensorFlow sees. Listing them reserves no memory."""
    tf = tensorflow()
    with silence_stderr():
        return tf.config.list_physical_devices("GPU")


def device_name() -> str:
    """The device that the TensorFlow engine trains on, in words for people."""
    cards = gpus()
    if not cards:
        return cpu_name()
    details = tensorflow().config.experimental.get_device_details(cards[0])
    words = f"GPU: {details.get('device_name', 'unknown name')}"
    if total := gpu_memory():
        words += f", {total / GIB:.0f} GiB"
    return words if len(cards) == 1 else f"{words}, the first of {len(cards)}"


def gpu_memory() -> int | None:
    """Memory of the first visible NVIDIA GPU in bytes; None without nvidia-smi."""
    if not (tool := shutil.which("nvidia-smi")):
        return None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={first}"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return int(answer.stdout) * 2**20 if answer.stdout.strip().isdigit() else None


def available_memory() -> int:
    """Memory in bytes that this process can use, including what it uses now, within its control groups' limits."""
    free = [psutil.virtual_memory().available, *_free_in_cgroups()]
    return min(free) + psutil.Process().memory_info().rss


def _free_in_cgroups() -> Iterator[int]:
    """The free memory of each control group (version 2) with a limit that contains this process, as in containers."""
    lines = OWN_CGROUPS.read_text().splitlines() if OWN_CGROUPS.exists() else []
    for path in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        own = CGROUP_ROOT / path  # does not exist in a container that sees its own group as the top
        for group in (own, *own.parents):
            limit = group / "memory.max"
            if group.is_relative_to(CGROUP_ROOT) and limit.exists() and (allowed := limit.read_text().strip()) != "max":
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield int(allowed) - int((group / "memory.current").read_text()) + int(stat["inactive_file"])
