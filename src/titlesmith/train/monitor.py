"""The monitor of a training: its history, its progress bar, and the rules that stop it."""

import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from titlesmith.runs import Run, replacing
from titlesmith.runs.files import fsync, naming_file

COLUMNS = (
    "step", "epoch", "tokens", "seconds", "loss", "loss_smoothed", "valid_loss", "copy_rate", "learning_rate",
    "grad_norm",
)  # fmt: skip
BAR = {"unit": "step", "ncols": 110, "mininterval": 0.5}
DECAY = 0.9  # of the smoothed loss, which averages about the last ten steps


def is_finite(row: dict) -> bool:
    """Whether loss and gradient of a row of the history are finite, so that its update was applied."""
    return math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])


class Monitor:
    """Records a training step by step in ``history.csv`` and ``tensorboard/``, and decides when it stops.

    ``settings`` are those of notebook 03: ``loss_floor patience save_every sample_every validate_every``. ``writes``
    says whether this process writes files: of several that train together one does, and all decide alike. ``bar``
    creates the progress bar. ``reason`` is why training stopped, empty while it runs.
    """

    def __init__(self, run: Run, settings: dict, writes: bool = True, bar: Callable[..., tqdm] = tqdm):
        self.run, self.settings, self.writes, self.reason, self._create_bar = run, settings, writes, "", bar
        self.history, self.model, self.samples = run / "history.csv", run / "model", run / "samples"

    def start(self, step: int, steps: int, epoch: int, step_tokens: int) -> None:
        """Begins after ``step``, that of the model's checkpoint; rows of later steps are removed from the history.

        ``steps`` is the last step, ``epoch`` the number of target tokens in an epoch, ``step_tokens`` the number of all
        tokens that a step reads. If the run's record says that the training is ``ended``, it stops at once.
        """
        from tensorboardX import SummaryWriter  # it imports torch for seconds, and only training needs it

        # Earlier rows are copied unchanged, so that a resumed history equals an uninterrupted one to the letter
        header = ",".join(COLUMNS) + "\n"
        old = self.history.read_text("utf-8").splitlines(True)[1:] if self.history.exists() else []
        kept = [line for line in old if line.endswith("\n") and int(line.partition(",")[0]) <= step]
        if self.writes:
            with replacing(self.history) as temporary:
                temporary.write_text(header + "".join(kept), "utf-8")

        # What the stop rules and the progress bar need from earlier rows
        self._steps, self._epoch, self._step_tokens, self._first_step = steps, epoch, step_tokens, step
        self._smoothed, self._valid, self._tokens, self._seconds = 0.0, [], 0, 0.0  # _valid: all validation losses
        for row in _parse([header, *kept]):
            self._count(row)
            self._tokens, self._seconds = int(row["tokens"]), row["seconds"]
        if not self.reason and self.run.record("finetune").get("ended"):
            self.reason = f"it was ended at step {step} of {steps}"

        self._started = time.monotonic()
        self._file = (self.history if self.writes else Path(os.devnull)).open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._board = SummaryWriter(str(self.run / "tensorboard"), purge_step=step + 1, write_to_disk=self.writes)
        self._bar = self._create_bar(total=steps, initial=step, disable=not self.writes, **BAR)

    def due(self, what: str, step: int) -> bool:
        """Whether to ``save``, ``sample`` or ``validate`` after this step, if it is not the last one."""
        every = self.settings[f"{what}_every"]
        return bool(every) and step % every == 0

    def improves(self, row: dict) -> bool:
        """Whether the validation loss of this row, if it has one, is lower than all before."""
        return row.get("valid_loss") is not None and row["valid_loss"] < min(self._valid, default=math.inf)

    def stop_reason(self, row: dict) -> str:
        """Why training stops with this row, which `step` records later; empty if it continues."""
        step, smoothed, valid = int(row["step"]), self._smooth(row), self._validations(row)
        if not is_finite(row):
            return (
                f"the loss was {row['loss']} and its gradient's norm {row['grad_norm']} at step {step}; "
                "that step was not applied. A lower learning_rate usually cures it"
            )
        if smoothed < (floor := self.settings["loss_floor"]):
            return f"the smoothed loss, {smoothed:.4f}, fell below the floor of {floor} at step {step}"
        waited = len(valid) - 1 - valid.index(min(valid)) if valid else 0
        if 0 < self.settings["patience"] <= waited:
            return f"the validation loss had not improved for {waited} validations at step {step}"
        return f"all {step} steps were done" if step >= self._steps else ""

    def step(self, **row: float | None) -> None:
        """Records a step: `COLUMNS` without ``epoch``, ``seconds`` and ``loss_smoothed``; ``tokens`` of this step.

        Losses are in nats a token; ``valid_loss`` and ``copy_rate`` are optional.
        """
        self._count(row)
        self._tokens += row["tokens"]
        elapsed = time.monotonic() - self._started
        row |= {"epoch": round(self._tokens / self._epoch, 4), "tokens": self._tokens}
        row |= {"seconds": round(self._seconds + elapsed, 3), "loss_smoothed": self._smoothed}
        # repr of a float reads back to the same float, so that a resumed history equals an uninterrupted one
        with naming_file(self.history):
            self._writer.writerow(row)
            self._file.flush()
        for name in COLUMNS[1:]:
            if row.get(name) is not None and math.isfinite(row[name]):
                self._board.add_scalar(name, row[name], row["step"])
        speed = (row["step"] - self._first_step) * self._step_tokens / elapsed
        losses = f"loss {row['loss']:.3f}, smoothed {self._smoothed:.3f}"
        losses += f", best valid {min(self._valid):.3f}" if self._valid else ""
        self._bar.set_postfix_str(f"{losses}, {speed:,.0f} tokens read/s", refresh=False)
        self._bar.update()

    def _count(self, row: dict) -> None:
        """Updates what the stop rules know by a row, new or read from the history."""
        self.reason, self._smoothed, self._valid = self.stop_reason(row), self._smooth(row), self._validations(row)

    def _smooth(self, row: dict) -> float:
        # Exponential moving average, corrected for its start at zero (Kingma and Ba 2015, section 3)
        return self._smoothed + (row["loss"] - self._smoothed) * (1 - DECAY) / (1 - DECAY ** row["step"])

    def _validations(self, row: dict) -> list[float]:
        return self._valid if row.get("valid_loss") is None else [*self._valid, row["valid_loss"]]

    def sample(self, step: int, texts: list[str]) -> None:
        """Writes texts that the model generated at this step to ``samples/``."""
        if self.writes:
            with replacing(self.samples / f"step-{step:06d}.txt") as temporary:
                temporary.write_text("".join(f"{text}\n" for text in texts), "utf-8")

    def sync(self) -> None:
        """Waits until the history is on the disk."""
        fsync(self.history)

    def close(self) -> None:
        """Closes the history and the progress bar."""
        for opened in (self._file, self._board, self._bar):
            opened.close()


def first_samples(run: Run) -> list[dict]:
    """The first text of each sample of a run: ``step`` and ``text``."""
    files = sorted((run / "samples").glob("step-*.txt"))
    return [{"step": int(file.stem[5:]), "text": file.read_text("utf-8").split("\n", 1)[0]} for file in files]


def kept_step(rows: list[dict], keep: str, last: int) -> int:
    """The step whose weights a training keeps: of the lowest validation loss where ``keep`` is best, else the last."""
    measured = [row for row in rows if row["valid_loss"] is not None]
    return int(min(measured, key=lambda row: row["valid_loss"])["step"]) if keep == "best" and measured else last


def memorization_floor(documents: int, tokens: int, has_prompt: bool) -> float:
    """The loss of a model that has memorized all documents, which are different, in nats a token.

    Documents come in random order, so it cannot know which one comes next: that costs log(documents) nats a document.
    A prompt says which document it is, and the loss can fall to 0. ``tokens`` counts all target tokens.
    """
    return 0.0 if has_prompt else math.log(documents) * documents / tokens


def read(path: Path) -> list[dict[str, float | None]]:
    """Rows of a ``history.csv``: floats, None for an empty cell; an incomplete last row is ignored."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return _parse([line for line in file if line.endswith("\n")])


def _parse(lines: list[str]) -> list[dict[str, float | None]]:
    return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(lines)]
