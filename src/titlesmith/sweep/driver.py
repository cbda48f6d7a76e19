"""The driver of a sweep: submits runs to Dask, follows them, and writes the sweep's record."""

import os
import time
import uuid
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from tqdm import tqdm

from titlesmith.errors import FetchError, RunError
from titlesmith.runs import STAGES, Run, hold, release, root, write_json
from titlesmith.sweep import cluster
from titlesmith.sweep.plan import Plan, Point, group, record_path
from titlesmith.sweep.search import Study
from titlesmith.sweep.work import lock_folder, stop, work
from titlesmith.train import monitor

RETRIES = 2  # of a run whose worker's machine failed
INTERVAL = 0.5  # seconds between polls
WAITING = {"state": "waiting", "reason": ""}


def run(
    plan: Plan,
    scheduler: str | None = None,
    workers: int | None = None,
    memory: str | None = None,
    echo: Callable[[str], None] = tqdm.write,
) -> dict:
    """Executes the missing runs of a sweep and returns its record, which is also in ``sweeps/<name>.json``.

    ``scheduler``, ``workers`` and ``memory`` are those of `cluster.connect`. If it has no workers, it is a RequestError
    or a FetchError, and nothing has run. If the sweep is already running, or runs failed, it is a RunError, which names
    them and their errors.
    """
    lock = lock_folder(plan.name) / ".driver"
    hold(lock)
    try:
        with cluster.connect(plan, scheduler, workers, memory) as client:
            return _Driver(plan, client, echo).run()
    finally:
        release(lock)


class _Driver:
    """A running sweep."""

    def __init__(self, plan: Plan, client: object, echo: Callable[[str], None]):
        self.plan, self.client, self.session = plan, client, uuid.uuid4().hex
        self.echo = echo
        self.study = Study(plan) if plan.file.search else None
        self.points = self.study.points if self.study else list(plan.points)
        self.results = self.study.results if self.study else {}  # of finished runs, by name
        self.pruned: set[str] = set()
        self.clock = time.monotonic()

    def run(self) -> dict:
        """Runs the sweep, see `run`."""
        self.write("running")
        state, total = "interrupted", self.plan.total
        try:
            count, threads = cluster.check_workers(self.client, self.plan)
            later = "" if count else ": it starts as soon as one joins"
            self.echo(f"sweep {self.plan.name}: {total} runs on {count} worker{'s' * (count != 1)}{later}")
            self.follow(count, threads)
            failed = {name: result for name, result in self.results.items() if result["state"] == "failed"}
            state = "failed" if failed else "done"
        except KeyboardInterrupt:
            self.echo(f"\nsweep {self.plan.name}: stopping the kernels; the same command resumes")
            self.client.run(stop, self.session, on_error="ignore")
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

    def follow(self, count: int, threads: int) -> None:
        """Submits all runs, or one trial of a search for each worker, and polls until all are finished."""
        if self.study:
            running = self.submit(self.ask(max(1, count)), threads)
        else:  # runs that share little go first, so that no worker waits while there is other work
            groups = group(self.points)
            order = sorted(self.points, key=lambda p: -sum(names[0] == p.name for names in groups[p.name].values()))
            running = self.submit(order, threads)
        with Live(console=Console(stderr=True), transient=True) as live:
            while running:
                for future in [future for future in running if future.done()]:
                    self.end(running.pop(future), self.result(future))
                    running |= self.submit(self.ask(1), threads)
                self.prune(running.values())
                live.update(self.table(running.values()))
                time.sleep(INTERVAL)

    def table(self, points: Iterable[Point]) -> Table:
        """For people: the runs in progress with their stage, step and training loss, and the time left for all."""
        finished, total, title = len(self.results), self.plan.total, f"{len(self.results)} of {self.plan.total} runs"
        if finished:
            seconds = (time.monotonic() - self.clock) / finished * (total - finished)
            title += f", about {seconds / 60:.0f} minutes left"
        table = Table("run", "stage", "step", "loss", title=title, box=None)
        for run in (Run(point.name) for point in points):
            stages = [stage for stage in STAGES if run.record(stage).get("status") == "running"]
            if stages:
                row = (monitor.read(run / "history.csv") or [{}])[-1]
                step, loss = (f"{row['step']:.0f}", f"{row['loss']:.3f}") if row else ("", "")
                table.add_row(run.name, stages[-1], step, loss)
        return table

    def ask(self, count: int) -> list[Point]:
        """The search's next trials, at most ``count``; none of a grid."""
        new = [point for _ in range(count) if self.study and (point := self.study.ask())]
        self.points = list({point.name: point for point in (*self.points, *new)}.values())
        return new

    def prune(self, points: Iterable[Point]) -> None:
        """Stops the trials whose validation loss is above that of the others."""
        for point in points:
            if self.study and point.name not in self.pruned and self.study.falls_behind(Run(point.name)):
                self.pruned.add(point.name)
                self.client.run(stop, self.session, point.name, on_error="ignore")

    def submit(self, points: list[Point], threads: int) -> dict[object, Point]:
        """Submits runs; returns the run of each future."""
        plan, groups = self.plan, group(self.points)
        return {
            self.client.submit(
                work,
                point,
                plan.until,
                groups[point.name],
                plan.name,
                self.session,
                str(root()),
                threads,
                key=(f"titlesmith-{self.session}", point.name),  # one group, which Dask spreads as workers become free
                retries=RETRIES,
                priority=-number,
                pure=False,
            ): point
            for number, point in enumerate(points)
        }

    def end(self, point: Point, result: dict) -> None:
        """Stores the result of a run."""
        if point.name in self.pruned:
            result = {"state": "pruned", "reason": "its validation loss was above that of the other trials"}
        if self.study:
            result |= {"value": self.study.tell(Run(point.name), result["state"])}
        self.results[point.name] = result
        self.echo(f"{point.name}: {result['state']}")
        self.write("running")

    def result(self, future: object) -> dict:
        """The result of a finished run."""
        if future.status == "finished":
            return future.result()
        if future.status in ("cancelled", "lost"):
            raise FetchError(
                f"the Dask scheduler of sweep {self.plan.name} disconnected; its workers may finish what they began. "
                "The same command resumes with a scheduler that is running"
            )
        error = future.exception()  # KilledWorker, or what Dask's retries could not cure
        return {"state": "failed", "reason": f"{type(error).__name__}: {error}"}

    def write(self, state: str) -> dict:
        """Writes the record, and returns it."""
        plan = self.plan
        content = {
            "name": plan.name,
            "experiment": os.path.relpath(plan.file.path, root()),
            "state": state,
            "seconds": round(time.monotonic() - self.clock, 1),
            "runs": [
                {"name": p.name, "set": p.set, "repeat": p.repeat} | self.results.get(p.name, WAITING)
                for p in self.points
            ],
            "reference": plan.file.reference,
            "plot": plan.file.plot,
        }
        write_json(record_path(plan.name), content)
        return content
