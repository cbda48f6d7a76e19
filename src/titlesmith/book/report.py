"""Reports: the part of a run that the book shows, from ``runs/`` or from a published book."""

import json
import math
import re
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from titlesmith.book import quiz
from titlesmith.errors import DAMAGE, RunError, TitlesmithError
from titlesmith.runs import STAGES, Run, digest, notebook, root
from titlesmith.train import monitor

FILES = ("run.json", "corpus/corpus.json", "history.csv", "texts.jsonl", "metrics.json")
SPLITS = ("train", "valid", "test")


class Report(Run):
    """A finished run, read once and checked.

    Parameters
    ----------
    path
        The run's directory, or its record in a published book: `FILES`, ``samples/`` and ``notebooks/``.

    Raises
    ------
    RunError
        The run is unfinished, or a file is missing, damaged, or lacks what the book needs; the message has the remedy.
    """

    def __init__(self, path: Path):
        super().__init__(path.name)
        self.path = path
        # The run is finished
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run: it has no run.json. Move the folder out of {path.parent}")
        if missing := [stage for stage in STAGES if not self.is_current(stage)]:
            raise RunError(
                f"{self.name} is unfinished: its {missing[0]} is missing or out of date. Run {self.rerun_command}"
            )
        # The files are those that the stages wrote, and have what the book needs
        written = {name: value for stage in STAGES for name, value in self.record(stage)["outputs"].items()}
        for name in FILES[1:]:
            self._check(path / name, lambda name=name: digest(path / name) == written.get(name), "its content changed")
        for part, needed in (
            ("corpus/corpus.json", lambda: [self.splits[name]["documents"] for name in SPLITS]),
            ("history.csv", lambda: [(row["step"], row["loss_smoothed"], row["valid_loss"]) for row in self.history]),
            ("texts.jsonl", lambda: [row["text"] + row["prefix"] for row in self.texts]),
            ("metrics.json", lambda: [float(self.metrics["perplexity"][name] or 0) for name in SPLITS]),
            ("run.json", lambda: [self.training[key] for key in ("settings", "steps", "stop_reason")]),
        ):
            self._check(self.path / part, needed)
        if path.parent == root() / "runs":  # a published record has no token ids
            self.verify("corpus")
        for stage in STAGES:
            self._check(self.executed(stage), lambda stage=stage: [self.chapter(stage)["cells"]])

    def _check(self, path: Path, needed: Callable[[], object], otherwise: str = "it is empty") -> None:
        """Checks that ``needed`` returns something true (RunError, which names the file)."""
        try:
            if needed():
                return
            why = f"damaged ({otherwise})"
        except OSError as error:
            why = f"missing ({error.strerror})"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            why = f"damaged or from an older version ({reason})"
        raise RunError(f"{self.name}: {path} is {why}. Rebuild it: {self.rerun_command}")

    # Files are read once
    info = cached_property(Run.info.fget)
    metrics = cached_property(Run.metrics.fget)
    texts = cached_property(Run.texts.fget)

    @cached_property
    def history(self) -> list[dict]:
        """The rows of history.csv."""
        return monitor.read(self.path / "history.csv")

    @cached_property
    def validation(self) -> list[tuple[int, float]]:
        """Step and validation loss of each validation."""
        return [(row["step"], row["valid_loss"]) for row in self.history if row["valid_loss"] is not None]

    @cached_property
    def splits(self) -> dict[str, dict]:
        """Counts of documents and tokens by split."""
        return json.loads((self.path / "corpus" / "corpus.json").read_text("utf-8"))["splits"]

    @property
    def training(self) -> dict:
        """The record of the training in run.json: settings, steps, stop reason."""
        return self.record("finetune")

    @property
    def kept(self) -> int:
        """The step whose weights were kept."""
        return self.training.get("kept_step", self.training["steps"])

    @property
    def ended(self) -> str:
        """When the last stage ended, ISO 8601, UTC."""
        return max(self.record(stage).get("ended", "") for stage in STAGES)

    @property
    def sweep(self) -> dict:
        """The run's sweep: ``name``, ``set`` (values by key), ``repeat``; empty for other runs."""
        sweep = self.info.get("sweep")
        name = sweep.get("name") if isinstance(sweep, dict) and isinstance(sweep.get("set"), dict) else None
        return sweep if isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name, re.ASCII) else {}

    def chapter(self, stage: str) -> dict:
        """An executed notebook, as JSON."""
        return json.loads(self.executed(stage).read_text("utf-8"))

    def measurement(self, name: str) -> float | None:
        """A number of metrics.json by its name, such as ``perplexity.test``; None if it was not measured.

        ``loss.test`` is the logarithm of the perplexity, and ``hours`` the time of the training.
        """
        if name == "hours":
            return self.history[-1]["seconds"] / 3600
        if name.startswith("loss."):
            perplexity = self.measurement(f"perplexity{name.removeprefix('loss')}")
            return math.log(perplexity) if perplexity and perplexity > 0 else None
        value: object = self.metrics
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if number else None

    def setting(self, key: str) -> object:
        """A parameter, ``stage.name``, or ``model`` or ``seed`` of the training; None if there is none."""
        stage, dot, name = key.partition(".")
        settings = self.record(stage if dot else "finetune").get("settings", {})
        return settings.get(name if dot else stage)

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95% interval of a measurement; None if metrics.json has none."""
        group, _, key = name.rpartition(".")
        found = self.metrics.get(f"{group}_interval" if group else "intervals")
        found = found.get(key) if isinstance(found, dict) else None
        return tuple(found) if isinstance(found, list) and len(found) == 2 and None not in found else None

    def copy_to(self, folder: Path, chapters: Path) -> None:
        """Writes the record of this run that a published book keeps; ``chapters`` is the folder of its pages."""
        files = {name: self / name for name in FILES}
        files |= {f"samples/{file.name}": file for file in (self / "samples").glob("step-*.txt")}
        files |= {f"notebooks/{notebook(stage).name}": chapters / notebook(stage).name for stage in STAGES}
        files |= {name: chapters / name for name in (quiz.FILE,) if (chapters / name).is_file()}
        files |= {"daily.jsonl": self / "daily.jsonl"} if (self / "daily.jsonl").is_file() else {}
        for name, source in files.items():
            target = folder / name
            if not target.exists() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def explain(path: Path, error: Exception) -> str:
    """Why a run is not in the book, and the remedy."""
    if isinstance(error, TitlesmithError):
        return str(error)
    what = f"{path} is damaged ({type(error).__name__}: {str(error)[:200]})"
    return f"{what}. Remove {path / 'run.json'}, and run its experiment again"


def load_reports(published: Path | None = None) -> tuple[list[Report], dict[str, str]]:
    """The runs that the book shows, newest first; and the reason and the remedy for each other folder, by name.

    Runs that only the folder ``published``, an earlier publication of the book, has are included.
    """
    shown: dict[str, Report] = {}
    omitted: dict[str, str] = {}
    for folder in filter(None, (root() / "runs", published and published / "runs")):
        for path in [path for path in sorted(folder.glob("[!.]*/")) if path.name not in shown]:
            try:
                shown[path.name] = Report(path)
                omitted.pop(path.name, None)
            except DAMAGE as error:
                omitted.setdefault(path.name, explain(path, error))
    return sorted(shown.values(), key=lambda report: (report.ended, report.name), reverse=True), omitted
