"""The driver of a sweep: submits jobs to Dask, follows them, and writes the sweep's record."""

import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from titlesmith.errors import FetchError, RequestError, RunError
from titlesmith.runs import Run, hold, release, root, write_json
from titlesmith.sweep import cluster, progress
from titlesmith.sweep.plan import Job, Plan, record_path
from titlesmith.sweep.work import add_remedy, stop, work

RETRIES = 2  # of a job whose worker's machine failed
INTERVAL = 0.5  # seconds between polls
SHARES = "what it shares with "


def run(
    plan: Plan,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    echo: Callable[[str], None] = print,
) -> dict:
    """Executes the missing runs of a sweep and returns its record, which is also in ``sweeps/<name>.json``.

    Parameters
    ----------
    scheduler
        Address of a Dask scheduler whose workers share this file system. Default: workers on this machine.
    workers, memory
        Limits of the workers on this machine, see `cluster.choose_num_workers`.

    Raises
    ------
    RequestError
        The sweep is not possible with these arguments; nothing has run.
    FetchError
        The scheduler does not answer, or disconnected.
    RunError
        The sweep is already running, or runs failed; the message names them and their errors.
    """
    lock = root() / "sweeps" / f".{plan.name}.lock"
    try:
        hold(lock)
    except RunError:
        raise RunError(
            f"sweep {plan.name} is already running: wait for it, stop it, or choose another name with --name"
        ) from None
    try:
        # A sweep may grow by values, but not by keys: its runs' names would not be unique
        with suppress(OSError, ValueError, LookupError, TypeError):  # no record, or a damaged one
            keys = tuple(json.loads(record_path(plan.name).read_text("utf-8"))["keys"])
            if keys != plan.keys:
                raise RequestError(
                    f"sweep {plan.name} varies {', '.join(keys) or 'seeds'}, and not "
                    f"{', '.join(plan.keys) or 'seeds'}: choose another name with --name"
                )
        with cluster.connect(plan, scheduler, workers, memory) as client:
            return _Driver(plan, client, echo).run()
    finally:
        if not record_path(plan.name).exists():  # nothing was started
            lock.unlink(missing_ok=True)
        release(lock)


class _Driver:
    """A running sweep."""

    def __init__(self, plan: Plan, client: object, echo: Callable[[str], None]):
        self.plan, self.client, self.session = plan, client, uuid.uuid4().hex
        self.echo, self.table = echo, progress.Progress(echo)
        self.results: dict[str, dict] = {}  # of finished runs, by name
        self.started, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def run(self) -> dict:
        """Runs the sweep, see `run`."""
        self.write("running")
        state, total = "interrupted", len(self.plan.points)
        try:
            threads = cluster.divide_cores(self.client, self.plan)
            count = len(threads) - 1
            later = "" if count else ": it starts as soon as one joins"
            self.echo(f"sweep {self.plan.name}: {total} runs on {count} worker{'s' * (count != 1)}{later}")
            with self.table.live():
                self.follow(threads)
            failed = {name: result for name, result in self.results.items() if result["state"] == "failed"}
            state = "failed" if failed else "done"
        except KeyboardInterrupt:
            self.echo(f"\nsweep {self.plan.name}: stopping the kernels; the same command resumes")
            self.client.run(stop, self.session, str(root()), on_error="ignore")
            raise
        finally:
            content = self.write(state)
        if failed:
            reasons = "".join(f"\n  {name}: {result['reason']}" for name, result in failed.items())
            raise RunError(
                f"{len(failed)} of {total} runs of sweep {self.plan.name} failed; the same command runs them again:"
                f"{reasons}"
            )
        return content

    def follow(self, threads: dict[str, int]) -> None:
        """Submits each job as soon as the one before it is done, and polls until all are finished."""
        waiting, running, results = self.plan.jobs(), {}, {}
        while waiting or running:
            for future in [future for future in running if future.done()]:
                self.end(running.pop(future), self.result(future), results)
            for job in [job for job in waiting if job.after is None or job.after in results]:
                waiting.remove(job)
                before = results.get(job.after, {})
                if before.get("state") != "failed":
                    running[self.submit(job, threads)] = job
                    continue
                # The job before it failed: in this run, or in the run whose stages this one links
                other, reason = job.after.point, before["reason"]
                if other is not job.point and not reason.startswith(SHARES):
                    reason = f"{SHARES}{other.name} failed: {reason}"
                self.end(job, {"state": "failed", "reason": reason}, results)
            self.table.show(self.states(), time.monotonic() - self.clock)
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
            key=(
                f"titlesmith-{self.session}",
                f"{job.point.name}/{job.until}",
            ),  # one group, which Dask spreads as workers become free
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
        return {"state": "failed", "reason": add_remedy(f"{type(error).__name__}: {error}")}

    def states(self) -> dict[str, progress.State]:
        """The states of all runs, by name."""
        return {
            point.name: progress.State(self.results[point.name]["state"])
            if point.name in self.results
            else progress.read(Run(point.name), point.experiment.settings["finetune"], self.started)
            for point in self.plan.points
        }

    def write(self, state: str) -> dict:
        """Writes the record, and returns it."""
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
                {"name": p.name, "set": p.set, "repeat": p.repeat} | self.results.get(p.name, unfinished)
                for p in plan.points
            ],
            "cases": plan.cases,
            "reference": plan.reference,
            "plot": plan.plot,
        }
        write_json(record_path(plan.name), content)
        return content
