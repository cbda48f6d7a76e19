"""The progress of a sweep's runs, read from their directories."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.live import Live
from rich.table import Table

from titlesmith.runs import STAGES, Run

MAX_ROW = 2048  # bytes of a row of history.csv
STYLES = {
    "running": "bold",
    "failed": "red",
    "waiting": "dim",
    "pruned": "dim",
    "done": "green",
}  # in the order of the table
OTHER_LINES = 9  # of the terminal, which are not rows of the table


class State(NamedTuple):
    """A run's state (a key of `STYLES`), stage, step and number of steps, smoothed loss, and seconds left."""

    state: str = "waiting"
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    left: float | None = None


def read(run: Run, settings: dict, since: str) -> State:
    """The state of an unfinished run, whose fine-tune stage has ``settings``; entries before ``since`` do not count."""
    try:
        stages = json.loads((run / "run.json").read_text("utf-8"))["stages"]
        stage = next((s for s in STAGES if stages.get(s, {}).get("status") == "running"), None)
        if not stage or stages[stage]["started"] < since:
            return State("running" if any(s.get("ended", "") >= since for s in stages.values()) else "waiting")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()
    row = read_last_row(run / "history.csv") if stage == "finetune" else {}
    if not row:
        return State("running", stage)
    step, steps = int(row["step"]), settings["steps"]
    if settings["epochs"] and row["epoch"]:
        steps = max(step, round(step * settings["epochs"] / row["epoch"]))
    return State("running", stage, step, steps, row["loss_smoothed"], row["seconds"] / step * (steps - step))


def read_last_row(path: Path) -> dict[str, float]:
    """The last complete row of a history, or an empty dictionary."""
    try:
        with path.open("rb") as file:
            header = file.readline().decode().rstrip("\n").split(",")
            start = file.tell()
            file.seek(max(start, file.seek(0, 2) - MAX_ROW))
            line = file.read().decode().rpartition("\n")[0].rpartition("\n")[2]
        return {k: float(v) for k, v in zip(header, line.split(","), strict=True) if v}
    except (OSError, ValueError):
        return {}


class Progress:
    """Shows the states: a live table in a terminal, else a line for each change, printed by ``echo``."""

    def __init__(self, echo: Callable[[str], None] = print):
        self._echo, self._events, self._done = echo, {}, None
        self._live = Live(auto_refresh=False) if sys.stdout.isatty() else None

    def live(self) -> AbstractContextManager:
        """The block in which the states are shown."""
        return self._live or nullcontext()

    def show(self, states: dict[str, State], seconds: float) -> None:
        """Shows the states of all runs, by name, ``seconds`` after the start."""
        if self._live:
            return self._live.update(self.table(states, seconds), refresh=True)
        for name, state in states.items():
            event = state.stage or state.state
            if event not in ("waiting", "running", self._events.get(name)):
                self._events[name] = event
                self._echo(f"{name}: {event}")

    def table(self, states: dict[str, State], seconds: float) -> Table:
        """The table, with as many rows as the terminal has lines: first the running runs."""
        # Title: counts, and the time left at the speed since the start
        counts = Counter(state.state for state in states.values())
        finished = counts["done"] + counts["failed"] + counts["pruned"]
        self._done = finished if self._done is None else self._done  # runs of an earlier start say nothing of speed
        title = ", ".join(f"{counts[kind]} {kind}" for kind in STYLES if counts[kind])
        title += f"; {_format_duration(seconds)}"
        if finished > self._done and (rest := len(states) - finished):
            title += f", about {_format_duration(seconds / (finished - self._done) * rest)} left"
        table = Table(title=title, title_justify="left", title_style="")
        for name in ("run", "stage", "step", "loss", "time left"):
            table.add_column(name, justify="left" if name in ("run", "stage") else "right", no_wrap=True)
        # Rows
        order = sorted(states, key=lambda name: list(STYLES).index(states[name].state))
        room = max(3, self._live.console.height - OTHER_LINES)
        for name in order[:room]:
            state = states[name]
            step = f"{state.step:,}/{state.steps:,}" if state.step else ""
            loss = f"{state.loss:.3f}" if state.loss is not None else ""
            cells = (name, state.stage or state.state, step, loss, _format_duration(state.left))
            table.add_row(*cells, style=STYLES[state.state])
        if len(order) > room:
            table.add_row(f"and {len(order) - room} more", style="dim")
        return table


def _format_duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
