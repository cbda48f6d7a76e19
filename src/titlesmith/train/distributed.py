"""Processes that train one model together: rank 0, which has the notebook, and workers, which do what it does.

Rank 0 keeps the loop of `titlesmith.train.loop`. What computes with the weights it does through `Group.call`: each
process gets the method and its arguments and takes its share of the rows. Gradients are averaged, of whole models
(DDP; Li et al. 2020) or of weights that are spread over the processes (FSDP; Zhao et al. 2023). Collectives on the
processor go through gloo, those of GPUs through NCCL.

Workers are started here, or a launcher such as torchrun has started them (`titlesmith.train.launcher`). Both kinds
(`titlesmith.train.worker`) wait at a store of torch for the trainings that rank 0 writes there.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from titlesmith import models
from titlesmith.errors import RequestError, RunError
from titlesmith.runs import Run, root
from titlesmith.train import architectures, launcher

START = 1800  # seconds in which workers must have read the model
TIMEOUT = timedelta(minutes=10)  # for a collective; processes reach one within the time of a step
FOREVER = timedelta(days=365)  # for the next order, which waits for samples, checkpoints, other notebooks
PATIENCE = 5  # seconds in which a worker's end is seen after its connection broke


class Group:
    """The processes of a training as one of them sees them; without arguments, a process on its own.

    Parameters
    ----------
    rank, size
        Number of this process, and how many there are.
    sharding
        ``none`` where each process holds the whole model, ``full`` where each holds a share of all weights.
    orders
        The processes once more, in a group that waits for rank 0 as long as it takes.
    """

    def __init__(self, rank: int = 0, size: int = 1, sharding: str = "none", orders: dist.ProcessGroup | None = None):
        self.rank, self.size, self.sharded, self._orders = rank, size, size > 1 and sharding == "full", orders
        self._calling = rank > 0  # workers give no orders
        self._trained: nn.Module | None = None

    def call(self, method: Callable, *args: object) -> object:
        """Calls a method of the engine in all processes, with the same arguments, and returns what it does here."""
        if self._calling or self.size == 1:
            return method(*args)
        self._calling = True  # and stays so where the call fails: the workers may be in the midst of it
        self._order((method.__name__, method.__self__.step, args))
        result = method(*args)
        self._calling = False
        return result

    def follow(self, engine: object) -> None:
        """In a worker: does what rank 0 calls, until it ends the training."""
        while order := self._order(None):
            name, engine.step, args = order
            getattr(engine, name)(*args)

    def _order(self, order: tuple | None) -> tuple | None:
        held = [order]
        dist.broadcast_object_list(held, 0, self._orders)
        return held[0]

    def share(self, rows: np.ndarray) -> np.ndarray:
        """The rows of an array that this process computes."""
        return np.array_split(rows, self.size)[self.rank]

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call to train a model, so that ``backward`` averages its gradients over the processes."""
        if self.sharded:
            self._spread = model.get_base_model() if isinstance(model, PeftModel) else model  # what generates, too
            mesh = init_device_mesh(model.device.type, (self.size,))
            for module in (*architectures.blocks(model), self._spread):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
        self._trained = model
        if self.size > 1 and not self.sharded:
            self._trained = DistributedDataParallel(model, gradient_as_bucket_view=True)
        return self._trained

    def averaging(self, now: bool) -> AbstractContextManager:
        """Around a call of what `wrap` gave, and ``backward``: gradients are averaged now, or summed up for later."""
        if self.sharded:
            self._spread.set_requires_gradient_sync(now)
        return nullcontext() if now or self.size == 1 or self.sharded else self._trained.no_sync()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value / self.size

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of an array over the processes."""
        if self.size > 1:
            dist.all_reduce(torch.from_numpy(values))
        return values

    def spread(self, optimizer: torch.optim.Optimizer) -> None:
        """Leaves of an optimizer's whole moments, as a checkpoint has them, what belongs to the weights here."""
        for parameter, moments in optimizer.state.items() if self.sharded else ():
            for name, whole in moments.items():
                if whole.shape == parameter.shape:
                    place = parameter.device_mesh, parameter.placements
                    moments[name] = distribute_tensor(whole, *place, src_data_rank=None)

    def whole(self, state: object) -> object:
        """A state with its spread tensors whole, in rank 0; all processes take part."""
        seen: dict[int, torch.Tensor | None] = {}  # weights with two names stay one

        def gather(value: object) -> object:
            if isinstance(value, DTensor):
                if id(value) not in seen:
                    full = value.detach().full_tensor()
                    seen[id(value)] = full.cpu() if self.rank == 0 else None
                return seen[id(value)]
            if isinstance(value, dict):
                return {key: gather(entry) for key, entry in value.items()}
            return [gather(entry) for entry in value] if isinstance(value, list) else value

        return gather(state)

    def close(self) -> None:
        """Ends the training, in rank 0 for the workers that wait for its next call too; once more does nothing."""
        if dist.is_initialized() and self.size > 1:
            with suppress(RuntimeError):  # of workers that are gone
                if not self._calling:
                    self._order(None)
            dist.destroy_process_group()


def join(store: dist.Store, rank: int, size: int, sharding: str) -> Group:
    """Makes the group of a training, once all processes are about to."""
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backends, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    return Group(rank, size, sharding, dist.new_group(backend="gloo", timeout=FOREVER))


@contextmanager
def training(run: Run, settings: dict) -> Iterator[Group]:
    """The processes that train a run; the workers among them work until the block ends.

    Raises
    ------
    RequestError
        The batch cannot be shared by so many, or there are fewer GPUs.
    RunError
        A worker did not start, or it ended before the training; the message has its last words.
    """
    size = settings.get("processes", 1)
    if size == 1:
        yield Group()
        return
    models.check_processes(settings)
    with ExitStack() as stack:
        workers = Launched(size) if launcher.size() == size else stack.enter_context(started(size))
        group = workers.begin(run, settings)
        try:
            yield group
        except RuntimeError as error:
            if why := workers.failure(PATIENCE):
                raise RunError(why) from error
            raise
        finally:
            workers.leave(group)


class Launched:
    """The workers of a training that a launcher has started.

    Parameters
    ----------
    size
        Number of processes, rank 0 among them.
    store
        Where they meet.
    """

    def __init__(self, size: int, store: dist.Store | None = None):
        self.size, self.store = size, store or launcher.store()
        self.processes: dict[int, subprocess.Popen] = {}
        self._over = threading.Event()

    def begin(self, run: Run, settings: dict) -> Group:
        """Has the workers read the model of a run, and makes a group of them and this process."""
        self._number = self.store.add("trainings", 1)
        self.store.set(f"{self._number}", json.dumps({"root": str(root()), "run": run.name, "settings": settings}))
        until = time.monotonic() + START
        while not self.store.check([f"{self._number}/ready/{rank}" for rank in range(1, self.size)]):
            if why := self.failure():
                raise RunError(why)
            if time.monotonic() > until:
                raise RunError(f"finetune: not all of {self.size} processes had read the model after {START} seconds")
            time.sleep(0.05)
        group = join(dist.PrefixStore(f"{self._number}/group", self.store), 0, self.size, settings["sharding"])
        if torch.cuda.is_available():
            threading.Thread(target=self._watch, daemon=True).start()
        return group

    def failure(self, within: float = 0) -> str:
        """Why a worker ended before its time, or does within some seconds; empty where none did."""
        until = time.monotonic() + within
        while True:
            found = ""
            if self.store.check([f"{self._number}/failed"]):
                found = self.store.get(f"{self._number}/failed").decode()
            for rank, process in self.processes.items():
                if not found and process.poll() is not None:
                    code = process.returncode
                    found = f"process {rank} was " + (
                        f"killed by signal {-code}" if code < 0 else f"ended, code {code}"
                    )
                    found += self.words(rank)
            if found:
                return (
                    f"finetune: {found}. The last checkpoint is whole: run the same again, and training goes on there"
                )
            if time.monotonic() >= until:
                return ""
            time.sleep(0.05)

    def words(self, rank: int) -> str:
        """What a worker said last; empty where the launcher shows it."""
        return ""

    def leave(self, group: Group) -> None:
        """Ends the group; workers learn that a connection that breaks now is no failure of theirs."""
        self._over.set()
        with suppress(RuntimeError):  # of a launcher that is gone
            self.store.set(f"{self._number}/left", "")
        group.close()

    def _watch(self) -> None:
        # A collective of NCCL does not notice that a process is gone
        while not self._over.wait(1):
            if self.failure():
                dist.distributed_c10d._abort_process_group()
                return


class Started(Launched):
    """Workers that this process has started; they end when it does, however it ends."""

    def __init__(self, size: int):
        hosted = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # at a port that is free
        super().__init__(size, dist.PrefixStore(launcher.prefix(), hosted))
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // size)))
        self._logs = {rank: tempfile.TemporaryFile() for rank in range(1, size)}  # noqa: SIM115
        for rank in range(1, size):
            self.processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "titlesmith.train.worker"],
                stdin=subprocess.PIPE,  # which closes when this process is gone
                stdout=self._logs[rank],
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what interrupts a notebook interrupts its kernel alone
                env=os.environ
                | launcher.environment(rank, size, hosted.port)
                | {"OMP_NUM_THREADS": threads, "TITLESMITH_ROOT": str(root())},
            )

    def words(self, rank: int) -> str:
        """See `Launched.words`."""
        self._logs[rank].seek(0)
        lines = self._logs[rank].read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        """Ends the workers, those too that do not answer."""
        with suppress(RuntimeError):
            self.store.set(str(self.store.add("trainings", 1)), "null")
        until = time.monotonic() + PATIENCE
        for rank, process in self.processes.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
            process.stdin.close()
            self._logs[rank].close()


@contextmanager
def started(size: int) -> Iterator[Started]:
    """Workers on this machine, a GPU each where it has GPUs, else sharing its cores."""
    if torch.cuda.is_available() and size > torch.cuda.device_count():
        raise RequestError(
            f"finetune.processes: {size} processes need a GPU each, and {torch.cuda.device_count()} can be seen here; "
            f"CUDA_VISIBLE_DEVICES= (empty) trains on the processor's cores"
        )
    threads = torch.get_num_threads()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")  # heard here alone
    workers = Started(size)
    torch.set_num_threads(max(1, threads // size))
    try:
        yield workers
    finally:
        torch.set_num_threads(threads)
        workers.end()
