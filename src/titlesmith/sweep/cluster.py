"""The Dask workers of a sweep: as many as fit on this machine, or those of a running cluster."""

import logging
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from titlesmith import models
from titlesmith.errors import FetchError, RequestError, shorten
from titlesmith.hints import install_command
from titlesmith.runs import root
from titlesmith.sweep.plan import Plan, record_path
from titlesmith.sweep.work import inspect

if TYPE_CHECKING:
    from distributed import Client

TIMEOUT = 5  # seconds for a scheduler to answer
MEMORY_SHARE = 0.9  # because estimates of a training's memory are some per cent off
GIB = 2**30
# Ctrl-C reaches all processes of a terminal: workers ignore it, and the driver stops their kernels
IGNORE_INTERRUPTS = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"


def estimate_memory(settings: dict[str, dict]) -> int:
    """The estimated memory of a run, in bytes, from the settings of its stages; 0 if unknown."""
    training = settings["finetune"]
    try:
        hyperparameters = models.hyperparameters(training["model"], settings["corpus"]["vocabulary"])
        return models.training_memory(hyperparameters, training, training["precision"] == "bfloat16")
    except (RequestError, KeyError):  # a missing model, which its run reports, or one of another kind
        return 0


def choose_num_workers(plan: Plan, workers: int | None, memory: str | None) -> int:
    """The number of workers on this machine: ``workers``, or as many as fit into ``memory`` (default: free memory).

    RequestError: ``memory`` is not a size, or too small for every run.
    """
    from dask.utils import parse_bytes

    try:
        available = parse_bytes(memory) if memory else MEMORY_SHARE * models.available_memory()
    except ValueError:
        raise RequestError(f"--memory {shorten(memory)}: it needs a size such as 8GB or 500MiB") from None
    needed = [estimate_memory(point.experiment.settings) for point in plan.points]
    fitting = [size for size in needed if size <= available]  # larger runs fail alone
    if memory and not fitting:
        raise RequestError(f"--memory {memory}: the smallest run needs about {min(needed) / GIB:.1f} GiB")
    if workers:
        return workers
    if shutil.which("nvidia-smi") or 0 in needed or not fitting:
        return 1  # parallel runs would share the GPU's memory, or need an unknown amount
    return min(plan.total, len(inspect("", "")["cores"]), int(available // max(fitting)))


@contextmanager
def connect(plan: Plan, scheduler: str | None, workers: int | None, memory: str | None) -> Iterator["Client"]:
    """A client of workers on this machine, which end with the block, or of those of a running ``scheduler``.

    RequestError: Dask is not installed, or limits of this machine are given with a scheduler. FetchError: no scheduler
    answers at the address.
    """
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise RequestError(f"sweeps need Dask ({error}): {install_command('sweep')}") from None

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the driver reports what matters
    # A running cluster
    if scheduler:
        if workers or memory:
            raise RequestError("--workers and --memory limit workers on this machine; --scheduler has its own workers")
        try:  # the address first: a Client that was never connected complains once more when it is deleted
            socket.create_connection(get_address_host_port(scheduler), TIMEOUT).close()
            client = Client(scheduler, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise FetchError(
                f"no Dask scheduler answers at {shorten(scheduler)} ({error}). `dask scheduler` starts one and prints "
                "its address, such as tcp://host:8786; without --scheduler the sweep runs on this machine"
            ) from None
        with client:
            yield client
        return
    # Workers on this machine
    with (
        dask.config.set({"distributed.worker.preload": [IGNORE_INTERRUPTS]}),
        LocalCluster(
            n_workers=choose_num_workers(plan, workers, memory),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,  # it would not count the kernels
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def check_workers(client: "Client", plan: Plan) -> tuple[int, int]:
    """Checks the connected workers; returns their number, and the threads of a kernel.

    Workers on one machine share its cores. All kernels have as many threads as on the machine with the fewest, because
    the last digits of a result depend on this number. If a worker lacks titlesmith, has another version, or does not
    see the project's folder, it is a RequestError.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    try:
        machines = client.run(inspect, str(root()), plan.name) if workers else {}
    except Exception as error:  # whatever unpickling raises there
        raise RequestError(
            f"the workers cannot run titlesmith ({type(error).__name__}: {error}): install the same version of "
            "titlesmith and its extra sweep there as here"
        ) from None
    version, slots = inspect("", "")["version"], Counter()
    for address, machine in machines.items():
        if machine["version"] != version or not machine["sees"]:
            raise RequestError(
                f"worker {address} on {machine['host']} has titlesmith {machine['version']} and "
                f"{'sees' if machine['sees'] else 'does not see'} {record_path(plan.name)}: workers need titlesmith "
                f"{version} and the project's folder at the same path, as on a cluster's common file system"
            )
        slots[machine["host"], tuple(machine["cores"])] += workers[address]["nthreads"]
    return len(machines), max(1, min((len(cores) // count for (_, cores), count in slots.items()), default=1))
