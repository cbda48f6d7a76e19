"""How far the runs of a sweep are, read from their directories while they work."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from titlesmith.runs.record import STAGES, Run

TAIL = 2048  # bytes of a history that surely hold its last row
MARKS = {"done": "green", "failed": "red", "running": "bold", "waiting": "dim"}


@dataclass(frozen=True)
class State:
    """A run at a moment: ``waiting``, ``running``, ``done`` or ``failed``; where it is; seconds left of training."""

    state: str = "waiting"
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    left: float | None = None


def look(run: Run, settings: dict, since: str) -> State:
    """The state of a run that is not finished.

    Parameters
    ----------
    run
        Its directory, which may not be there yet.
    settings
        Of its fine-tune stage.
    since
        When the sweep began; what is older is of an earlier start.
    """
    try:
        stages = json.loads((run / "run.json").read_text("utf-8"))["stages"]
        now = next((s for s in STAGES if stages.get(s, {}).get("status") == "running"), None)
        if not now or stages[now]["started"] < since:
            return State("running" if any(s.get("ended", "") >= since for s in stages.values()) else "waiting")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()
    row = last(run / "history.csv") if now == "finetune" else {}
    if not row:
        return State("running", now)
    step, steps = int(row["step"]), settings["steps"]
    if settings["epochs"] and row["epoch"]:
        steps = max(step, round(step * settings["epochs"] / row["epoch"]))
    return State("running", now, step, steps, row["loss_smoothed"], row["seconds"] / step * (steps - step))


def last(path: Path) -> dict[str, float]:
    """The last whole row of a history; empty where there is none.

    It is read from the end, and without `titlesmith.train.monitor`, whose TensorBoard takes seconds to import.
    """
    try:
        with path.open("rb") as file:
            header = file.readline().decode().rstrip("\n").split(",")
            start = file.tell()
            file.seek(max(start, file.seek(0, 2) - TAIL))
            line = file.read().decode().rpartition("\n")[0].rpartition("\n")[2]
        return {k: float(v) for k, v in zip(header, line.split(","), strict=True) if v}
    except (OSError, ValueError):  # not there, or without a row
        return {}


def clock(seconds: float | None) -> str:
    """Seconds as people write them."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


class Table:
    """Shows the states: a table that changes in a terminal, else a line for each change.

    Parameters
    ----------
    echo
        Takes a line where standard output is no terminal, or rich is missing.
    """

    def __init__(self, echo: Callable[[str], None] = print):
        self.echo, self._before, self._live = echo, {}, None
        if sys.stdout.isatty():
            try:
                from rich.live import Live

                self._live = Live(auto_refresh=False)
            except ImportError:
                pass

    def around(self) -> AbstractContextManager:
        """The block in which the table stands."""
        return self._live or nullcontext()

    def show(self, states: dict[str, State], seconds: float, begun: int) -> None:
        """Shows the states of all runs.

        Parameters
        ----------
        states
            By name of the run.
        seconds
            Since the sweep was started.
        begun
            How many were finished at its first look, which tell nothing of speed.
        """
        if self._live:
            self._live.update(self._table(states, seconds, begun), refresh=True)
            return
        for name, state in states.items():
            now = (state.state, state.stage)
            if now != self._before.get(name, ("waiting", "")) and (state.stage or state.state in ("done", "failed")):
                self.echo(f"{name}: {state.state if state.state != 'running' else state.stage}")
            self._before[name] = now

    def _table(self, states: dict[str, State], seconds: float, begun: int) -> object:
        from rich.table import Table

        counts = {kind: sum(state.state == kind for state in states.values()) for kind in MARKS}
        over, rest = counts["done"] + counts["failed"], counts["running"] + counts["waiting"]
        left = f", about {clock(seconds / (over - begun) * rest)} left" if over > begun and rest else ""
        title = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        table = Table(title=f"{title}; {clock(seconds)}{left}", title_justify="left", title_style="")
        for name in ("run", "stage", "step", "loss", "time left"):
            table.add_column(name, justify="left" if name in ("run", "stage") else "right", no_wrap=True)
        order = sorted(states, key=lambda name: ("running", "failed", "waiting", "done").index(states[name].state))
        fits = max(3, self._live.console.height - 9)
        for name in order[:fits]:
            state = states[name]
            step = f"{state.step:,}/{state.steps:,}" if state.step else ""
            loss = f"{state.loss:.3f}" if state.loss is not None else ""
            cells = (name, state.stage or state.state, step, loss, clock(state.left))
            table.add_row(*cells, style=MARKS[state.state])
        if len(order) > fits:
            table.add_row(f"and {len(order) - fits} more", style="dim")
        return table
