"""The work of a Dask worker: one run, whose stages are linked if another run has executed them."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil
from filelock import FileLock

from titlesmith.errors import TitlesmithError
from titlesmith.pipeline import chain, failed, source
from titlesmith.runs import LOCK_TIMEOUT, Run, hold, release, replacing
from titlesmith.settings import declared
from titlesmith.sweep.plan import Point, record_path

# Environment variables with which TensorFlow, OpenMP, polars and tokenizers limit their threads
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS",
           "RAYON_NUM_THREADS")  # fmt: skip
STOP_SECONDS = 10  # for kernels to end
_working: dict[str, set[Path]] = {}  # by session of a sweep, the runs that this process works on
_stopped: set[str] = set()  # sessions that were interrupted


class StopError(Exception):
    """The sweep was interrupted."""


def work(
    point: Point, until: str, groups: dict[str, list[str]], sweep: str, session: str, root: str, threads: int
) -> dict:
    """Executes a run, its notebooks in separate kernels; returns ``state`` (done, failed) and ``reason``.

    ``groups`` are the runs that share the result of each stage: one executes it while the others wait, and these link
    it. ``session`` is an id of this start of the sweep, ``root`` the project's folder, ``threads`` those of a kernel.
    Errors other than titlesmith's are raised, and Dask retries the run on another machine.
    """
    os.environ["TITLESMITH_ROOT"] = root
    if not record_path(sweep).exists():
        raise OSError(f"{socket.gethostname()} does not see {record_path(sweep)}: share the project's folder")
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    declared.cache_clear()  # the worker may be older than the notebooks
    run = Run(point.name)
    _working.setdefault(session, set()).add(run.path)

    def check_stopped(line: str) -> None:
        if session in _stopped:
            raise StopError

    @contextlib.contextmanager
    def shared(stage: str) -> Iterator[None]:
        with FileLock(lock_folder(sweep) / f"{groups[stage][0]}.{stage}"):
            check_stopped("")
            share(run, groups[stage], stage, point.experiment.settings[stage])
            yield

    try:
        hold(run / ".chain.lock", LOCK_TIMEOUT)  # a lost worker's chain may be about to release it
        run.update(sweep={"name": sweep, "set": point.set, "repeat": point.repeat})
        with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):  # progress bars
            trains = groups["finetune"][0] == run.name
            chain(point.experiment, run.name, until=until, echo=check_stopped, around=shared, trains=trains)
    except TitlesmithError as error:
        return {"state": "failed", "reason": str(error)}
    except StopError:
        return {"state": "failed", "reason": "interrupted"}
    finally:
        release(run / ".chain.lock")
        _working[session].discard(run.path)
    return {"state": "done", "reason": ""}


def lock_folder(sweep: str) -> Path:
    """The folder of a sweep's locks: of its driver, and of shared stages."""
    return record_path(sweep).with_name(f".{sweep}")


def share(run: Run, names: list[str], stage: str, settings: dict) -> None:
    """Gives a run the finished stage of one of the runs with these names, if there is one with the same settings.

    Files are hard links if possible. Links are safe because files of a run are replaced, never changed.
    """
    made = source(stage)
    if run.is_done(stage, settings, made):
        return
    others = (Run(name) for name in names if name != run.name)
    if not (other := next((other for other in others if other.is_done(stage, settings, made)), None)):
        return
    hold(run / ".stage.lock", LOCK_TIMEOUT)
    try:
        run.clear(stage)
        failed(run, stage).unlink(missing_ok=True)
        finished = other.record(stage)
        for old in (*(other / name for name in finished["outputs"]), other.executed(stage)):
            with replacing(run / old.relative_to(other.path)) as temporary:
                try:
                    temporary.hardlink_to(old)
                except OSError:
                    shutil.copyfile(old, temporary)
        run.update(versions=other.info["versions"])
        run.update_stage(stage, **{"taken_from": other.name} | finished)
    finally:
        release(run / ".stage.lock")


def inspect(root: str, sweep: str) -> dict:
    """A worker's machine: host name, whether it sees the sweep's record, titlesmith's version, and its cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    sees = (Path(root) / "sweeps" / f"{sweep}.json").is_file()
    return {"host": socket.gethostname(), "sees": sees, "version": metadata.version("titlesmith"), "cores": cores}


async def stop(session: str, run: str | None = None) -> None:
    """Kills the kernels of a sweep in this process; no further stage begins. Or, of its runs, only that of ``run``.

    A kernel is recognized by the lock of its run's stage, so that kernels of other sweeps are not touched.
    """
    if run is None:
        _stopped.add(session)
    for _ in range(STOP_SECONDS * 5):
        locks = {str(path / ".stage.lock") for path in _working.get(session, ()) if run in (None, path.name)}
        if not locks:
            return
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if locks & {file.path for file in child.open_files()}:
                    child.kill()
        await asyncio.sleep(0.2)
