"""Several processes that train one model: the same program in each (SPMD), with a share of every batch.

`launch` starts ``python -m titlesmith.finetune RUN`` in N processes through ``torchrun``, on this machine or on several
(with options in ``TITLESMITH_TORCHRUN``, see ``book/devices.md``). Each process builds corpus, engine and loop; rank 0
alone writes files. Gradients are averaged, of complete models (DDP; Li et al. 2020) or of weights that are sharded over
the processes (FSDP; Zhao et al. 2023). Collectives use gloo for processors and NCCL for GPUs.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from titlesmith import models
from titlesmith.errors import InterruptError, RequestError, RunError
from titlesmith.runs import Run, root
from titlesmith.train import architectures, monitor

PROGRAM = "titlesmith.finetune"
CHILD = "TITLESMITH_CHILD"  # set for processes that exit when their standard input is closed
COLLECTIVE_TIMEOUT = timedelta(hours=1)  # others wait while rank 0 writes; torchrun ends them when one fails
EXIT_TIMEOUT = 5  # seconds for torchrun to exit after its processes
STOP_TIMEOUT = 40  # seconds for an interrupted training to save a checkpoint; torchrun kills it after 30
POLL_INTERVAL = 1  # seconds between two readings of the history
# Complete tensors, in rank 0, whatever the sharding: each kind of training resumes the others' checkpoints
COMPLETE = StateDictOptions(full_state_dict=True, cpu_offload=True, strict=False)


def join() -> None:
    """Joins the processes that torchrun or ``accelerate launch`` has started, with a GPU for each if there are GPUs."""
    if os.environ.get(CHILD):
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=COLLECTIVE_TIMEOUT)


def _exit_with_parent() -> None:
    os.read(0, 1)  # returns when the parent has closed the pipe, however it ended
    os._exit(1)


def rank() -> int:
    """The number of this process; 0 outside a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def total(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the processes, in place."""
    if size() > 1:
        dist.all_reduce(value)
    return value


def wrap(model: nn.Module, sharding: str) -> nn.Module:
    """The module whose backward pass averages the gradients of ``model``; ``sharding: full`` shards its weights."""
    if size() == 1:
        return model
    if sharding == "none":
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    mesh = init_device_mesh(model.device.type, (size(),))
    for module in (*architectures.blocks(model), base):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def averaging(wrapped: nn.Module, now: bool) -> AbstractContextManager:
    """Forward and backward of one call; gradients are averaged now, or accumulated for a later call."""
    for module in wrapped.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now, recurse=False)
    return nullcontext() if now or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()


def launch(run: Run, settings: dict, bar: Callable[..., tqdm] = tqdm) -> None:
    """Trains a run whose fine-tune stage has begun in several processes, and shows their progress.

    Raises what one process raised (RequestError, RunError), or a RunError with the last log line of a process that
    ended or was killed; InterruptError after an interrupt.
    """
    count, options = settings["processes"], shlex.split(os.environ.get("TITLESMITH_TORCHRUN", ""))
    environment = {"TITLESMITH_ROOT": str(root()), CHILD: "1"}
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, models.cpu_count() // count)))
    if not options:
        options = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={count}"]
        environment["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"  # no other machine can connect
        if torch.cuda.is_available() and count > torch.cuda.device_count():
            raise RequestError(
                f"finetune.processes: {count} processes need a GPU each; {torch.cuda.device_count()} are visible. "
                "CUDA_VISIBLE_DEVICES= (empty) trains on the processor"
            )
    with tempfile.TemporaryDirectory(prefix="titlesmith-") as folder:
        logs = Path(folder)
        with (logs / "torchrun.log").open("wb") as output:
            torchrun = [sys.executable, "-m", "torch.distributed.run", *options, f"--log-dir={logs}", "--redirects=3"]
            process = subprocess.Popen(
                [*torchrun, "-m", PROGRAM, run.name],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends: all others exit then
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt reaches this process only, which ends the others
                env=os.environ | environment,
            )
        try:
            _follow(run / "history.csv", process, bar(total=settings["steps"], **monitor.BAR))
        except KeyboardInterrupt:
            process.terminate()  # torchrun passes it on: all processes stop after the same step
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT)
            stopped = run.record("finetune").get("stopped") or "interrupted"
            raise InterruptError(f"{stopped}; {run.how_to_resume}") from None
        finally:
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(EXIT_TIMEOUT)
            process.kill()
            process.wait()
        if process.returncode:
            _raise_failure(logs)


def _follow(history: Path, process: subprocess.Popen, bar: tqdm) -> None:
    """Shows the progress of a growing history until the process ends."""
    with bar:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_INTERVAL)
            if rows := monitor.read(history):
                bar.set_postfix_str(f"loss {rows[-1]['loss']:.3f}", refresh=False)
                bar.update(int(rows[-1]["step"]) - bar.n)


def _raise_failure(logs: Path) -> NoReturn:
    """Raises what made the training end, from torchrun's report and the logs of its processes."""
    report = (logs / "torchrun.log").read_text("utf-8", "replace")
    failures = re.findall(r"rank\s*: (\d+) \(local_rank: (\d+)\)\s*exitcode\s*: (-?\d+)", report)
    if not failures:
        raise RunError(f"finetune: torchrun failed: {_last_line(logs / 'torchrun.log')}")
    # Others fail because the first one is gone; torchrun ends them with SIGTERM (15). Its root cause is its last.
    failures.sort(key=lambda failure: failure[2].startswith("-") and failure[2] != "-15")
    number, local, code = failures[-1]
    line = next(map(_last_line, logs.glob(f"*/attempt_*/{local}/stderr.log")), "")
    kind, _, message = line.partition(": ")
    for error in (RequestError, RunError):
        if kind == error.__name__:
            raise error(message)
    ended = f"was killed by signal {code[1:]}" if code.startswith("-") else f"ended with code {code}"
    raise RunError(
        f"finetune: process {number} {ended}{': ' if line else ''}{line}. The last checkpoint is complete: run "
        "the same command again, and training resumes from it"
    )


def _last_line(log: Path) -> str:
    return re.split(r"[\r\n]+", log.read_text("utf-8", "replace").strip())[-1].strip()
