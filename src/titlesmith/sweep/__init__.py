"""Sweeps: many runs of one experiment on Dask, each the same notebooks, what they share made once.

A sweep's record is ``sweeps/<name>.json``; its runs lie below ``runs/`` as any others, and each says in its run.json
which sweep it is of.
"""

import json
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.runs.record import Run, hold, release, root, write_json
from titlesmith.sweep import cluster, progress
from titlesmith.sweep.plan import Job, Plan, read, record, relative
from titlesmith.sweep.work import explained, stop, work

__all__ = ["Plan", "read", "record", "run"]
RETRIES = 2  # of a run whose worker's machine failed
PAUSE = 0.5  # seconds between looks


def run(
    plan: Plan,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    echo: Callable[[str], None] = print,
) -> dict:
    """Does what is missing of a sweep.

    Parameters
    ----------
    plan
        Its runs.
    scheduler
        Address of a Dask scheduler whose workers share this file system; workers on this machine where it is left out.
    workers, memory
        Of this machine, see `cluster.size`.
    echo
        Takes lines on the sweep, where no table shows it.

    Returns
    -------
    dict
        The record, which lies in ``sweeps/<name>.json``.

    Raises
    ------
    RequestError
        The sweep cannot be run as asked; nothing has run.
    FetchError
        The scheduler does not answer, or went away.
    RunError
        The sweep is going on already, or runs failed; the message names them and says why.
    """
    cluster.check_installed()
    lock = root() / "sweeps" / f".{plan.name}.lock"
    try:
        hold(lock)
    except RunError:
        raise RunError(
            f"sweep {plan.name} is going on already: wait for it, stop it, or give this one another name with --name"
        ) from None
    try:
        _check_keys(plan)
        with cluster.connect(plan, scheduler, workers, memory) as client:
            return _Sweep(plan, client, echo).run()
    finally:
        if not record(plan.name).exists():  # refused before it began
            lock.unlink(missing_ok=True)
        release(lock)


def _check_keys(plan: Plan) -> None:
    """A sweep may grow by values, but not by keys, because its runs' names would no longer tell what they are."""
    if record(plan.name).exists():
        before = tuple(_read(plan.name).get("keys", plan.keys))
        if before != plan.keys:
            raise RequestError(
                f"sweep {plan.name} varies {', '.join(before) or 'seeds'}, and not {', '.join(plan.keys) or 'seeds'}: "
                "give this one another name with --name"
            )


def _read(name: str) -> dict:
    try:
        found = json.loads(record(name).read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    except ValueError:
        return {}


class _Sweep:
    """A sweep while it goes on."""

    def __init__(self, plan: Plan, client: object, echo: Callable[[str], None]):
        self.plan, self.client, self.session = plan, client, uuid.uuid4().hex
        self.root, self.echo, self.table = str(root()), echo, progress.Table(echo)
        self.points = {point.name: point for point in plan.points}
        self.finished: dict[str, dict] = {}
        self.started, self.begun = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def run(self) -> dict:
        """Runs it; see `run`."""
        self.write("running")
        state = "interrupted"
        try:
            share = cluster.threads(self.client, self.plan, self.root)
            workers = len(share) - 1
            self.echo(
                f"sweep {self.plan.name}: {len(self.points)} runs on {workers} worker{'s' * (workers != 1)}"
                + ("" if workers else " yet: it begins when one joins")
            )
            with self.table.around():
                self.wait(share)
            state = "failed" if self.failed else "done"
        except KeyboardInterrupt:
            self.echo(f"\nsweep {self.plan.name}: ending its workers' kernels; the same command goes on")
            self.client.run(stop, self.session, self.root, on_error="ignore")
            raise
        finally:
            self.write(state)
        if self.failed:
            reasons = "".join(f"\n  {name}: {found['reason']}" for name, found in self.failed.items())
            raise RunError(
                f"{len(self.failed)} of {len(self.points)} runs of sweep {self.plan.name} failed; the same command "
                f"runs them again:{reasons}"
            )
        return _read(self.plan.name)

    @property
    def failed(self) -> dict[str, dict]:
        """The runs that failed."""
        return {name: found for name, found in self.finished.items() if found["state"] == "failed"}

    def wait(self, share: dict[str, int]) -> None:
        """Gives jobs to Dask as soon as those that they need are done, and follows them until all are finished."""
        todo, first = self.plan.jobs(), None
        going: dict[object, Job] = {}
        over: dict[Job, dict] = {}
        while todo or going:
            for future in [future for future in going if future.done()]:
                job = going.pop(future)
                self.end(job, over, self.result(future))
            for job in [job for job in todo if job.after is None or job.after in over]:
                todo.remove(job)
                if job.after and (before := over[job.after])["state"] == "failed":
                    self.end(job, over, before | {"reason": _shared(job, before["reason"])})
                else:
                    going[self.submit(job, share)] = job
            states = {name: self.look(name) for name in self.points}
            first = len(self.finished) if first is None else first
            self.table.show(states, time.monotonic() - self.begun, first)
            if going:
                time.sleep(PAUSE)

    def submit(self, job: Job, share: dict[str, int]) -> object:
        """Gives a job to Dask.

        It is a job without dependencies to Dask, which would otherwise prefer the worker that has done what it needs.
        """
        return self.client.submit(
            work,
            job,
            self.plan.name,
            self.session,
            self.root,
            share,
            key=(f"titlesmith-{self.session}", job.key),  # one group, which Dask gives out as workers become free
            retries=RETRIES,
            priority=0 if job.last else 1,  # what others wait for goes first
            pure=False,
        )

    def end(self, job: Job, over: dict[Job, dict], found: dict) -> None:
        """Notes what became of a job, and of its run where it was the last."""
        over[job] = found
        if job.last:
            self.finished[job.point.name] = found
            self.write("running")

    def result(self, future: object) -> dict:
        """What became of a job."""
        if future.status == "finished":
            return future.result()
        if future.status in ("cancelled", "lost"):
            raise FetchError(
                f"the Dask scheduler of sweep {self.plan.name} went away; what its workers have begun they may end. "
                "The same command goes on with a scheduler that is there"
            )
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            return {"state": "failed", "reason": "its worker was killed, and so were those that tried it again"}
        return {"state": "failed", "reason": explained(f"{type(error).__name__}: {error}")}

    def look(self, name: str) -> progress.State:
        """How far a run is."""
        if name in self.finished:
            return progress.State(self.finished[name]["state"])
        return progress.look(Run(name), self.points[name].experiment.settings["finetune"], self.started)

    def write(self, state: str) -> None:
        """Writes the record."""
        unfinished = {"state": "waiting", "reason": ""}
        runs = [
            {"name": point.name, "set": point.set, "repeat": point.repeat} | self.finished.get(point.name, unfinished)
            for point in self.plan.points
        ]
        content = {
            "name": self.plan.name,
            "experiment": relative(self.plan.path),
            "keys": self.plan.keys,
            "repeat": self.plan.repeat,
            "until": self.plan.until,
            "state": state,
            "started": self.started,
            "seconds": round(time.monotonic() - self.begun, 1),
            "runs": runs,
            "reference": self.plan.reference,
        }
        try:
            write_json(record(self.plan.name), content)
        except OSError as error:
            raise RunError(explained(f"{record(self.plan.name)} cannot be written: {error}")) from None


def _shared(job: Job, reason: str) -> str:
    """Why a job cannot be done, where the one before it failed."""
    shares = f"what it shares with {job.after.point.name} failed: "
    return reason if job.after.point is job.point or reason.startswith("what it shares") else shares + reason
