"""The work of a Dask worker: stages of one run, after linking those that another run has."""

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
from titlesmith.runs import LOCK_TIMEOUT, Run, hold, release, replacing
from titlesmith.settings import declared
from titlesmith.sweep.plan import Job, record_path

# Environment variables with which TensorFlow, OpenMP, polars and tokenizers limit their threads
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS",
           "RAYON_NUM_THREADS")  # fmt: skip
STOP_SECONDS = 10  # for kernels to end
_working: dict[str, set[str]] = {}  # by session of a sweep, the runs that this process works on
_stopped: set[str] = set()  # sessions that were interrupted


class StopError(Exception):
    """The sweep was interrupted."""


def work(job: Job, sweep: str, session: str, root: str, threads: dict[str, int]) -> dict:
    """Executes a job in this process, its notebooks in separate kernels.

    Parameters
    ----------
    session
        An id of this start of the sweep.
    root
        The project's folder, which this machine must share.
    threads
        Threads of each kernel by the worker's address; "" for workers that joined later.

    Returns
    -------
    dict
        ``state`` (done, failed) and ``reason``. Errors other than titlesmith's are raised, and Dask retries the job
        on another machine.
    """
    from distributed import get_worker

    os.environ["TITLESMITH_ROOT"] = root
    if not record_path(sweep).exists():
        raise OSError(f"{socket.gethostname()} does not see {record_path(sweep)}: share the project's folder")
    os.environ.update(dict.fromkeys(THREADS, str(threads.get(get_worker().address, threads[""]))))
    declared.cache_clear()  # the worker may be older than the notebooks
    run = Run(job.point.name)
    _working.setdefault(session, set()).add(run.name)

    def check_stopped(line: str) -> None:
        if session in _stopped:
            raise StopError

    try:
        hold(run / ".chain.lock", LOCK_TIMEOUT)  # a lost worker's chain may be about to release it
        run.update(sweep={"name": sweep, "set": job.point.set, "repeat": job.point.repeat})
        for stage in job.shared:
            share(run, Run(job.after.point.name), stage, job.point.experiment.settings[stage])
        with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):  # progress bars
            chain(job.point.experiment, run.name, until=job.until, echo=check_stopped)
    except TitlesmithError as error:
        return {"state": "failed", "reason": add_remedy(str(error))}
    except StopError:
        return {"state": "failed", "reason": "interrupted"}
    finally:
        release(run / ".chain.lock")
        _working[session].discard(run.name)
    return {"state": "done", "reason": ""}


def add_remedy(reason: str) -> str:
    """An error with its remedy, if that is not in the run's parameters."""
    if "No space left on device" in reason:
        return f"{reason}. Free some space; the same command resumes"
    return f"{reason}. Try fewer --workers, or a smaller batch" if "kernel was killed" in reason else reason


def share(run: Run, other: Run, stage: str, settings: dict) -> None:
    """Gives a run the finished stage of another one (RunError if that has no such stage with these settings).

    Files are hard links if possible. Links are safe because files of a run are replaced, never changed.
    """
    made = source(stage)
    if run.is_done(stage, settings, made):
        return
    if not other.is_done(stage, settings, made):
        raise RunError(f"{other.path} no longer has the {stage} that {run.name} shares with it: start the sweep again")
    hold(run / ".stage.lock", LOCK_TIMEOUT)
    try:
        run.clear(stage)
        failed(run, stage).unlink(missing_ok=True)
        finished = other.record(stage)
        for name in finished["outputs"]:
            link(other / name, run / name)
        link(other.executed(stage), run.executed(stage))
        run.update(versions=other.info["versions"])
        run.update_stage(stage, **{"taken_from": other.name} | finished)
    finally:
        release(run / ".stage.lock")


def link(old: Path, new: Path) -> None:
    """Links a file, or copies it if that is not possible."""
    with replacing(new) as temporary:
        try:
            temporary.hardlink_to(old)
        except OSError:
            shutil.copyfile(old, temporary)


def inspect(root: str, sweep: str) -> dict:
    """A worker's machine: host name, whether it sees the sweep's record, titlesmith's version, and its cores."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    sees = (Path(root) / "sweeps" / f"{sweep}.json").is_file()
    return {"host": socket.gethostname(), "sees": sees, "version": metadata.version("titlesmith"), "cores": cores}


async def stop(session: str, root: str, run: str | None = None) -> None:
    """Kills the kernels of a sweep in this process; no further stage begins. Or, of its runs, only that of ``run``.

    A kernel is recognized by the lock of its run's stage, so that kernels of other sweeps are not touched.
    """
    if run is None:
        _stopped.add(session)
    for _ in range(STOP_SECONDS * 5):
        locks = {
            str(Path(root) / "runs" / name / ".stage.lock") for name in _working.get(session, ()) if run in (None, name)
        }
        if not locks:
            return
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if locks & {file.path for file in child.open_files()}:
                    child.kill()
        await asyncio.sleep(0.2)
