"""The driver of a sweep: submits jobs to Dask, follows them, and writes the sweep's record."""

import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.runs import Run, hold, release, root, write_json
from titlesmith.sweep import cluster, progress
from titlesmith.sweep.plan import Job, Plan, record
from titlesmith.sweep.work import explained, stop, work

RETRIES = 2  # of a job whose worker's machine failed
INTERVAL = 0.5  # seconds between polls


def run(
    plan: Plan,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    echo: Callable[[str], None] = print,
) -> dict:
    """Executes the missing runs of a sweep.

    Parameters
    ----------
    plan
        The sweep.
    scheduler
        Address of a Dask scheduler whose workers share this file system. Default: workers on this machine.
    workers, memory
        Limits of the workers on this machine, see `cluster.num_workers`.
    echo
        Prints a line.

    Returns
    -------
    dict
        The record, which is also in ``sweeps/<name>.json``.

    Raises
    ------
    RequestError
        The sweep is not possible with these arguments; nothing has run.
    FetchError
        The scheduler does not answer, or disconnected.
    RunError
        The sweep is already running, or runs failed; the message names them and their errors.
    """
    cluster.check_installed()
    lock = root() / "sweeps" / f".{plan.name}.lock"
    try:
        hold(lock)
    except RunError:
        raise RunError(
            f"sweep {plan.name} is already running: wait for it, stop it, or choose another name with --name"
        ) from None
    try:
        # A sweep may grow by values, but not by keys: its runs' names would not be unique
        keys = tuple(_read(plan.name).get("keys", plan.keys))
        if keys != plan.keys:
            raise RequestError(
                f"sweep {plan.name} varies {', '.join(keys) or 'seeds'}, and not {', '.join(plan.keys) or 'seeds'}: "
                "choose another name with --name"
            )
        with cluster.connect(plan, scheduler, workers, memory) as client:
            return _Driver(plan, client, echo).run()
    finally:
        if not record(plan.name).exists():  # nothing was started
            lock.unlink(missing_ok=True)
        release(lock)


def _read(name: str) -> dict:
    """The record of a sweep; empty if there is none that can be read."""
    try:
        content = json.loads(record(name).read_text("utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


class _Driver:
    """A running sweep."""

    def __init__(self, plan: Plan, client: object, echo: Callable[[str], None]):
        self.plan, self.client, self.session = plan, client, uuid.uuid4().hex
        self.echo, self.table = echo, progress.Table(echo)
        self.points = {point.name: point for point in plan.points}
        self.results: dict[str, dict] = {}  # of finished runs, by name
        self.started, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def run(self) -> dict:
        """Runs the sweep, see `run`."""
        self.write("running")
        state = "interrupted"
        try:
            threads = cluster.threads(self.client, self.plan)
            count = len(threads) - 1
            self.echo(
                f"sweep {self.plan.name}: {len(self.points)} runs on {count} worker{'s' * (count != 1)}"
                + ("" if count else ": it starts as soon as one joins")
            )
            with self.table.live():
                self.follow(threads)
            failed = {name: result for name, result in self.results.items() if result["state"] == "failed"}
            state = "failed" if failed else "done"
        except KeyboardInterrupt:
            self.echo(f"\nsweep {self.plan.name}: stopping the kernels; the same command resumes")
            self.client.run(stop, self.session, str(root()), on_error="ignore")
            raise
        finally:
            self.write(state)
        if failed:
            reasons = "".join(f"\n  {name}: {result['reason']}" for name, result in failed.items())
            raise RunError(
                f"{len(failed)} of {len(self.points)} runs of sweep {self.plan.name} failed; the same command "
                f"runs them again:{reasons}"
            )
        return _read(self.plan.name)

    def follow(self, threads: dict[str, int]) -> None:
        """Submits each job as soon as the one before it is done, and polls until all are finished."""
        waiting, running, results = self.plan.jobs(), {}, {}
        while waiting or running:
            for future in [future for future in running if future.done()]:
                self.end(running.pop(future), self.result(future), results)
            for job in [job for job in waiting if job.after is None or job.after in results]:
                waiting.remove(job)
                before = results.get(job.after, {})
                if before.get("state") == "failed":
                    self.end(job, before | {"reason": _shared(job, before["reason"])}, results)
                else:
                    running[self.submit(job, threads)] = job
            self.table.show({name: self.progress(name) for name in self.points}, time.monotonic() - self.clock)
            if running:
                time.sleep(INTERVAL)

    def submit(self, job: Job, threads: dict[str, int]) -> object:
        """Submits a job, without dependencies: Dask would prefer the worker that did the job before it."""
        return self.client.submit(
            work,
            job,
            self.plan.name,
            self.session,
            str(root()),
            threads,
            key=(f"titlesmith-{self.session}", job.key),  # one group, which Dask spreads as workers become free
            retries=RETRIES,
            priority=0 if job.last else 1,  # jobs that others wait for go first
            pure=False,
        )

    def end(self, job: Job, result: dict, results: dict[Job, dict]) -> None:
        """Stores the result of a job, and of its run if it was the last."""
        results[job] = result
        if job.last:
            self.results[job.point.name] = result
            self.write("running")

    def result(self, future: object) -> dict:
        """The result of a finished job."""
        if future.status == "finished":
            return future.result()
        if future.status in ("cancelled", "lost"):
            raise FetchError(
                f"the Dask scheduler of sweep {self.plan.name} disconnected; its workers may finish what they began. "
                "The same command resumes with a scheduler that is running"
            )
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            return {"state": "failed", "reason": "its worker was killed, and so were those that retried it"}
        return {"state": "failed", "reason": explained(f"{type(error).__name__}: {error}")}

    def progress(self, name: str) -> progress.State:
        """The progress of a run."""
        if name in self.results:
            return progress.State(self.results[name]["state"])
        return progress.read(Run(name), self.points[name].experiment.settings["finetune"], self.started)

    def write(self, state: str) -> None:
        """Writes the record."""
        plan, unfinished = self.plan, {"state": "waiting", "reason": ""}
        content = {
            "name": plan.name,
            "experiment": os.path.relpath(plan.path, root()),
            "keys": plan.keys,
            "repeat": plan.repeat,
            "until": plan.until,
            "state": state,
            "started": self.started,
            "seconds": round(time.monotonic() - self.clock, 1),
            "runs": [
                {"name": point.name, "set": point.set, "repeat": point.repeat}
                | self.results.get(point.name, unfinished)
                for point in plan.points
            ],
            "reference": plan.reference,
        }
        try:
            write_json(record(plan.name), content)
        except OSError as error:
            raise RunError(explained(f"{record(plan.name)} cannot be written: {error}")) from None


def _shared(job: Job, reason: str) -> str:
    """The reason why a job cannot run after the one before it failed."""
    prefix = "what it shares with "
    own = job.after.point is job.point or reason.startswith(prefix)
    return reason if own else f"{prefix}{job.after.point.name} failed: {reason}"
