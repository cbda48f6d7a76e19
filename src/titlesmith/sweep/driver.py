"""The driver of a sweep: submits jobs to Dask, follows them, and writes the sweep's record."""

import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from titlesmith.errors import DAMAGE, FetchError, RequestError, RunError
from titlesmith.runs import STAGES, Run, hold, release, root, write_json
from titlesmith.sweep import cluster, progress
from titlesmith.sweep.file import format_value
from titlesmith.sweep.plan import Job, Plan, Point, record_path
from titlesmith.sweep.search import Study
from titlesmith.sweep.work import add_remedy, stop, work

RETRIES = 2  # of a job whose worker's machine failed
INTERVAL = 0.5  # seconds between polls
SHARES = "what it shares with "
WAITING = {"state": "waiting", "reason": "", "value": None}


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


def read_runs(plan: Plan) -> list[dict]:
    """The runs of a search in its record, by number; empty without a record. Those that were deleted are waiting."""
    earlier = []
    with suppress(*DAMAGE):
        for run in json.loads(record_path(plan.name).read_text("utf-8"))["runs"]:
            if run["name"] != f"{plan.name}-t{len(earlier)}" or run["set"].keys() != set(plan.keys):
                break
            ended = run["state"] == "pruned" or run.get("value") is not None
            earlier.append(run if ended and (Run(run["name"]) / "run.json").exists() else run | WAITING)
    return earlier


class _Driver:
    """A running sweep."""

    def __init__(self, plan: Plan, client: object, echo: Callable[[str], None]):
        self.plan, self.client, self.session = plan, client, uuid.uuid4().hex
        self.echo, self.table = echo, progress.Progress(echo)
        self.results: dict[str, dict] = {}  # of finished runs, by name
        self.study, self.trials, self.pruned = None, {}, set()  # of a search: numbers of its trials by run, pruned runs
        if plan.search:
            seed, earlier = plan.ends[0].experiment.settings["finetune"]["seed"], read_runs(plan)
            self.study = Study(plan.search, seed, earlier)
            # Runs that ended stay in the record, and share their stages
            made = [
                plan.make(i, dict(zip(run["set"], map(format_value, run["set"].values()), strict=True)))
                for i, run in enumerate(earlier)
            ]
            self.plan = replace(plan, points=tuple(made))
            self.results = {
                run["name"]: {key: run[key] for key in WAITING} for run in earlier if run["state"] != "waiting"
            }
        self.started, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()

    def run(self) -> dict:
        """Runs the sweep, see `run`."""
        self.write("running")
        state, total = "interrupted", self.plan.total
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
        running, results = {}, {(name, STAGES[-1]): result for name, result in self.results.items()}
        # At least two trials, so that the first one's papers are shared before it ends
        waiting = self.ask(max(2, len(threads) - 1)) if self.study else self.plan.jobs()
        while waiting or running:
            for future in [future for future in running if future.done()]:
                job = running.pop(future)
                self.end(job, self.result(future), results)
                waiting += self.ask(1) if self.study and job.last else []
            for job in [job for job in waiting if job.after is None or self.before(job, results)]:
                waiting.remove(job)
                before = self.before(job, results)
                if self.study and job.shared and before.get("state") in ("failed", "pruned"):
                    job, before = replace(job, after=None, shared=()), {}
                if before.get("state") not in ("failed", "pruned"):
                    running[self.submit(job, threads)] = job
                    continue
                # The job before it failed: in this run, or in the run whose stages this one links
                other, reason = job.after.point, before["reason"]
                if other is not job.point and not reason.startswith(SHARES):
                    reason = f"{SHARES}{other.name} failed: {reason}"
                self.end(job, {"state": "failed", "reason": reason}, results)
            for job in running.values() if self.study else ():
                self.prune(job.point)
            self.table.show(self.states(), time.monotonic() - self.clock)
            if running:
                time.sleep(INTERVAL)

    def before(self, job: Job, results: dict[tuple[str, str], dict]) -> dict:
        """The result of the job before one, or of a later one of the same run; empty if there is none yet."""
        if job.after is None:
            return {}
        later = STAGES[STAGES.index(job.after.until) :]
        return next(
            (results[job.after.point.name, stage] for stage in later if (job.after.point.name, stage) in results), {}
        )

    def ask(self, count: int) -> list[Job]:
        """The jobs of the search's next trials, at most ``count``."""
        new = []
        for number, texts in filter(None, (self.study.ask() for _ in range(count))):
            new.append(self.plan.make(number, texts))
            self.trials[new[-1].name] = number
        points = {point.name: point for point in (*self.plan.points, *new)}  # an interrupted one keeps its position
        self.plan = replace(self.plan, points=tuple(points.values()))
        return [job for job in self.plan.jobs() if job.point in new]

    def prune(self, point: Point) -> None:
        """Stops a trial whose validation loss is above that of the others."""
        if point.name not in self.pruned and self.study.falls_behind(self.trials[point.name], Run(point.name)):
            self.pruned.add(point.name)
            self.client.run(stop, self.session, str(root()), point.name, on_error="ignore")

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

    def end(self, job: Job, result: dict, results: dict[tuple[str, str], dict]) -> None:
        """Stores the result of a job, and of its run if it was the last."""
        if job.point.name in self.pruned:
            result = {"state": "pruned", "reason": "its validation loss was above that of the other trials"}
        if self.study and job.last:
            value = self.plan.search.value(Run(job.point.name)) if result["state"] == "done" else None
            self.study.tell(self.trials[job.point.name], value, result["state"])
            result = result | {"value": value}
        results[job.point.name, job.until] = result
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
