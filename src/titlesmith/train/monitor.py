"""The monitor of a training: its history, its progress bar, and the rules that stop it."""

import csv
import math
import os
import time
from pathlib import Path

from tensorboardX import SummaryWriter
from tqdm import tqdm

from titlesmith.runs import Run, replacing
from titlesmith.runs.files import fsync, naming_file

COLUMNS = (
    "step", "epoch", "tokens", "seconds", "loss", "loss_smoothed", "valid_loss", "copy_rate", "learning_rate",
    "grad_norm",
)  # fmt: skip
MEMORY = 0.9  # of the smoothed loss: it averages over about the last ten steps


class Monitor:
    """Follows a training step by step.

    Every step becomes a row of ``history.csv`` at once, so that a training that is killed has its history, and the same
    figures go to ``tensorboard/`` (``tensorboard --logdir runs``).

    Parameters
    ----------
    run
        Where ``history.csv``, ``samples/`` and ``model/`` lie.
    settings
        ``loss_floor`` (0 for no floor), ``patience`` (validations in a row without a better one after which to stop; 0
        for never), ``save_every``, ``sample_every`` and ``validate_every`` (0 for never but at the end).
    writes
        Whether this process writes files; of several that train together one does, and all decide alike.

    Attributes
    ----------
    reason
        Why training stopped; empty while it runs.
    """

    def __init__(self, run: Run, settings: dict, writes: bool = True):
        self.run, self.settings, self.writes, self.reason = run, settings, writes, ""
        self.history, self.model, self.samples = run / "history.csv", run / "model", run / "samples"

    def start(self, step: int, steps: int, epoch: int) -> None:
        """Begins behind ``step``, that of the model's checkpoint; rows of later steps are dropped and made again.

        ``steps`` is the last step, ``epoch`` the number of learned tokens an epoch.
        """
        # Rows that stay are copied unchanged, so that a resumed history equals an uninterrupted one to the letter.
        old = self.history.read_text("utf-8").splitlines(True)[1:] if self.history.exists() else []
        kept = [line for line in old if line.endswith("\n") and int(line.partition(",")[0]) <= step]
        if self.writes:
            with replacing(self.history) as temporary:
                temporary.write_text(",".join(COLUMNS) + "\n" + "".join(kept), "utf-8")
        rows, self.steps = _parse([",".join(COLUMNS) + "\n", *kept]), steps
        self._best, self._waited = math.inf, 0
        for row in rows:
            self._count(row)
        self._smoothed = rows[-1]["loss_smoothed"] if rows else 0.0
        self._epoch, self._tokens = epoch, int(rows[-1]["tokens"]) if rows else 0
        self._before, self._first = rows[-1]["seconds"] if rows else 0.0, self._tokens
        self._begun = time.monotonic()
        self._file = (self.history if self.writes else Path(os.devnull)).open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
        self._board = SummaryWriter(str(self.run / "tensorboard"), purge_step=step + 1, write_to_disk=self.writes)
        self._bar = tqdm(total=steps, initial=step, unit="step", ncols=110, mininterval=0.5, disable=not self.writes)
        if rows:
            self.reason = self._why(rows[-1] | {"waited": self._waited})

    def stops(self, row: dict) -> bool:
        """Whether training stops with this row, as far as it is known: `step` records it later."""
        return bool(self._why(row | {"loss_smoothed": self._smooth(row), "waited": self._waited + self._waits(row)}))

    def improves(self, row: dict) -> bool:
        """Whether the validation loss of this row is the lowest until now."""
        return row.get("valid_loss") is not None and row["valid_loss"] < self._best

    def step(self, **row: float | None) -> str:
        """Records a step and decides whether it was the last.

        Parameters
        ----------
        row
            The columns of `COLUMNS` but ``epoch``, ``seconds`` and ``loss_smoothed``, which are added here; losses in
            nats a token, ``tokens`` those that this step learned; ``valid_loss`` and ``copy_rate`` where measured.

        Returns
        -------
        str
            Why training stops after this step; empty if it continues.
        """
        elapsed = time.monotonic() - self._begun
        self._tokens += row["tokens"]
        self._smoothed = self._smooth(row)
        row |= {
            "epoch": round(self._tokens / self._epoch, 4),
            "tokens": self._tokens,
            "seconds": round(self._before + elapsed, 3),
            "loss_smoothed": self._smoothed,
        }
        # repr of a float reads back to the same float, so that a resumed history equals an uninterrupted one
        with naming_file(self.history):
            self._writer.writerow({k: "" if row.get(k) is None else row[k] for k in COLUMNS})
            self._file.flush()
        for name in COLUMNS[1:]:
            if row.get(name) is not None and math.isfinite(row[name]):
                self._board.add_scalar(name, row[name], row["step"])
        speed = (self._tokens - self._first) / elapsed
        self._bar.set_postfix_str(
            f"loss {row['loss']:.3f}, smoothed {row['loss_smoothed']:.3f}, {speed:,.0f} tokens/s", refresh=False
        )
        self._bar.update()
        self._count(row)
        self.reason = self._why(row | {"waited": self._waited})
        return self.reason

    def _waits(self, row: dict) -> bool:
        return row.get("valid_loss") is not None and not self.improves(row)

    def _count(self, row: dict) -> None:
        if self.improves(row):
            self._best, self._waited = row["valid_loss"], 0
        else:
            self._waited += self._waits(row)

    def due(self, what: str, step: int) -> bool:
        """Whether to ``save``, ``sample`` or ``validate`` after this step; all three at the end."""
        every = self.settings[f"{what}_every"]
        return step >= self.steps or bool(every and step % every == 0)

    def sample(self, step: int, texts: list[str]) -> None:
        """Writes texts that the model generated at this step to ``samples/``."""
        if not self.writes:
            return
        with replacing(self.samples / f"step-{step:06d}.txt") as temporary:
            temporary.write_text("".join(f"{text}\n" for text in texts), "utf-8")

    def sync(self) -> None:
        """Waits until the history is on the disk."""
        fsync(self.history)

    def close(self) -> None:
        """Closes the history and the progress bar."""
        self._file.close()
        self._board.close()
        self._bar.close()

    def _smooth(self, row: dict) -> float:
        # Exponential moving average, corrected for its start at zero (Kingma and Ba 2015, section 3)
        return self._smoothed + (row["loss"] - self._smoothed) * (1 - MEMORY) / (1 - MEMORY ** row["step"])

    def _why(self, row: dict) -> str:
        step, floor = int(row["step"]), self.settings["loss_floor"]
        if not math.isfinite(row["loss"]) or not math.isfinite(row["grad_norm"]):
            return (
                f"the loss was {row['loss']} and its gradient's norm {row['grad_norm']} at step {step}; "
                f"that step was not applied. A lower learning_rate usually cures it"
            )
        if row["loss_smoothed"] < floor:
            smoothed = row["loss_smoothed"]
            return f"the smoothed loss, {smoothed:.4f}, fell below the floor of {floor} at step {step}"
        if 0 < self.settings["patience"] <= row["waited"]:
            return f"the validation loss had not improved for {row['waited']} validations at step {step}"
        return f"all {step} steps were done" if step >= self.steps else ""


def first_samples(run: Run) -> list[dict]:
    """The first text of each sample of a run: ``step`` and ``text``."""
    files = sorted((run / "samples").glob("step-*.txt"))
    return [{"step": int(file.stem[5:]), "text": file.read_text("utf-8").split("\n", 1)[0]} for file in files]


def kept_step(rows: list[dict], keep: str, last: int) -> int:
    """The step whose weights a training keeps: of the lowest validation loss where ``keep`` is best, else the last."""
    measured = [row for row in rows if row["valid_loss"] is not None]
    if keep == "best" and measured:
        return int(min(measured, key=lambda row: row["valid_loss"])["step"])
    return last


def memorization_floor(documents: int, tokens: int, has_prompt: bool) -> float:
    """The loss of a model that knows every document by heart, in nats a token.

    Documents come in random order, so it cannot know which one comes next: that costs log(documents) nats a document,
    whatever it has learned. Where documents have a prompt, the prompt says which one it is, and the loss can fall to 0.

    Parameters
    ----------
    documents
        How many there are, all different.
    tokens
        Learned tokens of all of them.
    has_prompt
        Whether each has a prompt.
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
