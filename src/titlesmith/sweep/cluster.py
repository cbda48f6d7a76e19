"""Where a sweep runs: Dask workers on this machine, as many as fit, or a cluster that is there already."""

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from titlesmith import models
from titlesmith.errors import FetchError, RequestError
from titlesmith.sweep.plan import Plan, record
from titlesmith.sweep.work import look

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 5  # seconds for a scheduler to answer
MARGIN = 0.9  # of the memory, because estimates of a training's are some per cent off
GIB = 2**30


def check_installed() -> None:
    """Checks that Dask is (RequestError)."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise RequestError(f"sweeps need Dask ({error}): pip install 'titlesmith[sweep]'") from None


def needs(settings: dict[str, dict]) -> int:
    """About the memory that a run takes, in bytes, by the settings of its stages; 0 where it cannot be said."""
    training = settings["finetune"]
    try:
        made_of = models.hyperparameters(training["model"], settings["corpus"]["vocabulary"])
        return models.training_memory(made_of, training, training["precision"] == "bfloat16")
    except (RequestError, KeyError):  # not here, which its run says, or of an engine that has other figures
        return 0


def size(plan: Plan, workers: int | None, memory: str | None) -> int:
    """How many workers this machine takes.

    Parameters
    ----------
    plan
        Its runs, whose largest that fits alone decides.
    workers
        As many, whatever fits.
    memory
        What all together may take, such as ``8GB``; by default what is free.

    Raises
    ------
    RequestError
        A number that is none, or no run fits into ``memory``.
    """
    from dask.utils import parse_bytes

    if workers is not None and workers < 1:
        raise RequestError(f"--workers {workers}: a sweep needs at least one")
    try:
        room = parse_bytes(memory) if memory else MARGIN * models.available_memory()
    except ValueError:
        raise RequestError(f"--memory {memory}: it needs a size such as 8GB or 500MiB") from None
    wanted = [needs(point.experiment.settings) for point in plan.points]
    fitting = [need for need in wanted if need <= room]  # the others fail alone
    if memory and not fitting:
        raise RequestError(f"--memory {memory}: the smallest run takes about {min(wanted) / GIB:.1f} GiB")
    if workers:
        return workers
    if shutil.which("nvidia-smi") or 0 in wanted or not fitting:
        return 1  # runs side by side would share the GPU's memory, or take nobody knows how much
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(len(plan.points), cores, int(room // max(fitting)))


@contextmanager
def connect(plan: Plan, scheduler: str | None, workers: int | None, memory: str | None) -> Iterator["Client"]:
    """A client of workers on this machine, which end with the block, or of the cluster behind an address.

    Raises
    ------
    FetchError
        No scheduler answers there.
    RequestError
        What is given is no address, or was given for a cluster that is not ours to make.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.comm import get_address_host_port

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of it is said in our own words
    if scheduler and (workers or memory):
        raise RequestError("--workers and --memory are of a cluster on this machine; --scheduler has its own workers")
    if scheduler:
        try:  # the address first: a Client that was never connected complains once more when it is deleted
            socket.create_connection(get_address_host_port(scheduler), PATIENCE).close()
            client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
        except OSError as error:
            raise FetchError(
                f"no Dask scheduler answers at {scheduler} ({error}). `dask scheduler` starts one and prints its "
                "address; without --scheduler the sweep runs on this machine"
            ) from None
        except ValueError as error:
            raise RequestError(
                f"--scheduler {scheduler}: {error}; it needs an address such as tcp://host:8786"
            ) from None
        with client:
            yield client
        return
    quiet = {"distributed.admin.tick.limit": "1h", "distributed.worker.multiprocessing-method": "spawn"}
    with (
        tempfile.TemporaryDirectory(prefix="titlesmith-", ignore_cleanup_errors=True) as folder,
        dask.config.set(quiet),
        LocalCluster(
            n_workers=size(plan, workers, memory),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port, for this machine alone
            memory_limit=0,  # it would watch the workers only, and not their kernels
            silence_logs=logging.CRITICAL,
            local_directory=folder,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(_quiet())
        yield client


def _quiet() -> object:
    from distributed import WorkerPlugin

    class Quiet(WorkerPlugin):
        """Leaves Ctrl-C, which a terminal sends to all processes, to the one that the person started."""

        name = "titlesmith-quiet"

        def setup(self, worker: object) -> None:
            with suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Quiet()


def threads(client: "Client", plan: Plan, root: str) -> dict[str, int]:
    """Checks the workers that are there, and shares their machines' cores out among them.

    Returns
    -------
    dict
        Threads for each kernel, by address of the worker; "" for workers that join later.

    Raises
    ------
    RequestError
        A worker lacks titlesmith, has another version, or does not see the project's folder.
    """
    slots = {address: w["nthreads"] for address, w in client.scheduler_info(n_workers=-1)["workers"].items()}
    try:
        found = client.run(look, root, plan.name) if slots else {}
    except Exception as error:  # whatever unpickling raises there
        raise RequestError(
            f"the workers cannot run titlesmith ({type(error).__name__}: {error}): install the same version of "
            "titlesmith[sweep] there as here"
        ) from None
    here = look(root, plan.name)
    for address, seen in found.items():
        if seen["version"] != here["version"]:
            raise RequestError(f"worker {address} has titlesmith {seen['version']}; here it is {here['version']}")
        if not seen["sees"]:
            raise RequestError(
                f"worker {address} on {seen['host']} does not see {record(plan.name)}: the workers of a sweep must "
                "share the project's folder, at the same path, as on a cluster's common file system"
            )
    of = {address: (seen["host"], tuple(seen["cores"])) for address, seen in found.items()}
    crowd = Counter()
    for address, machine in of.items():
        crowd[machine] += slots[address]
    share = {address: max(1, len(machine[1]) // crowd[machine]) for address, machine in of.items()}
    return share | {"": min(share.values(), default=1)}
