"""What a worker does: stages of one run, behind those that it takes over from another."""

import asyncio
import contextlib
import os
import shutil
import socket
from importlib import metadata
from pathlib import Path

import psutil

from titlesmith.errors import RunError, TitlesmithError
from titlesmith.pipeline import chain, failed, source
from titlesmith.runs.record import WAITING, Run, hold, release, replacing
from titlesmith.settings import declared
from titlesmith.sweep.plan import Job, record

# What TensorFlow, and what polars and tokenizers, take for the number of threads
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS",
           "RAYON_NUM_THREADS")  # fmt: skip
CHANCES = 10  # seconds for a killed run's chain to notice
_working: dict[str, set[str]] = {}  # of each session of a sweep, the runs that this process works on
_stopped: set[str] = set()  # sessions that were interrupted


class StopError(Exception):
    """The sweep was interrupted."""


def work(job: Job, sweep: str, session: str, root: str, threads: dict[str, int]) -> dict:
    """Does a job in this process's thread, its notebooks in kernels of their own.

    Parameters
    ----------
    job
        What to do.
    sweep, session
        The sweep's name, and what tells this start of it from others.
    root
        The project's folder, which this machine must see.
    threads
        Threads for each kernel by address of a worker; "" for workers that joined later.

    Returns
    -------
    dict
        ``state`` (done, failed) and ``reason``. Other errors than titlesmith's own are raised: they are the machine's,
        and the job is tried again elsewhere.
    """
    from distributed import get_worker

    os.environ["TITLESMITH_ROOT"] = root
    if not record(sweep).exists():
        raise OSError(f"{socket.gethostname()} does not see {record(sweep)}: workers must share the project's folder")
    count = str(threads.get(get_worker().address, threads[""]))
    os.environ.update(dict.fromkeys(THREADS, count))
    declared.cache_clear()  # the worker may be older than the notebooks
    run = Run(job.point.name)
    _working.setdefault(session, set()).add(run.name)

    def going_on(line: str) -> None:
        if session in _stopped:
            raise StopError

    try:
        # The chain of a worker that was killed, or lost, may be about to let go of this run.
        hold(run / ".chain.lock", WAITING)
        run.update(sweep={"name": sweep, "set": job.point.set, "repeat": job.point.repeat})
        for stage in job.takes:
            take(run, Run(job.after.point.name), stage, job.point.experiment.settings[stage])
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):  # progress bars
            chain(job.point.experiment, run.name, until=job.until, echo=going_on)
    except TitlesmithError as error:
        return {"state": "failed", "reason": explained(str(error))}
    except StopError:
        return {"state": "failed", "reason": "interrupted"}
    finally:
        release(run / ".chain.lock")
        _working[session].discard(run.name)
    return {"state": "done", "reason": ""}


def explained(reason: str) -> str:
    """A run's failure with what to do about it, where that is not the run's own parameters."""
    if "No space left on device" in reason:
        return f"{reason}. Free some room; the same command goes on"
    if "DeadKernelError" in reason:
        return f"{reason}. Its kernel was killed, as where memory runs out: try fewer --workers, or a smaller batch"
    return reason


def take(run: Run, other: Run, stage: str, settings: dict) -> None:
    """Takes a finished stage over from another run, as hard links where the file system has them.

    Links are safe because files of a run are replaced, never changed.

    Raises
    ------
    RunError
        The other run does not have it as these settings make it.
    """
    made = source(stage)
    if run.is_done(stage, settings, made):
        return
    if not other.is_done(stage, settings, made):
        raise RunError(f"{other.path} no longer has the {stage} that {run.name} shares with it: start the sweep again")
    hold(run / ".stage.lock", WAITING)
    try:
        run.clear(stage)
        failed(run, stage).unlink(missing_ok=True)
        kept = other.record(stage)
        for name in kept["outputs"]:
            link(other / name, run / name)
        link(other.executed(stage), run.executed(stage))
        run.update(versions=other.info["versions"])
        run.update_stage(stage, **{"taken_from": other.name} | kept)
    finally:
        release(run / ".stage.lock")


def link(old: Path, new: Path) -> None:
    """Gives a file a second name, or copies it where that cannot be."""
    with replacing(new) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(old)
        except OSError:
            shutil.copyfile(old, temporary)


def look(root: str, sweep: str) -> dict:
    """What a worker's machine is: whether it sees the sweep's record, its version, and its cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    sees = (Path(root) / "sweeps" / f"{sweep}.json").is_file()
    return {"host": socket.gethostname(), "sees": sees, "version": metadata.version("titlesmith"), "cores": cores}


async def stop(session: str, root: str) -> None:
    """Ends what this process works on for a sweep: its kernels are killed, and no further stage begins.

    A kernel is known by the lock of its run's stage, so that those of others on the same worker go on.
    """
    _stopped.add(session)
    for _ in range(CHANCES * 5):
        locks = {str(Path(root) / "runs" / name / ".stage.lock") for name in _working.get(session, ())}
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if locks & {file.path for file in child.open_files()}:
                    child.kill()
        if not locks:
            return
        await asyncio.sleep(0.2)
