"""Reports: the part of a run that the book shows, from ``runs/`` or from a published book."""

import json
import math
import re
from functools import cached_property, partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from titlesmith.book import quiz, write
from titlesmith.errors import DAMAGE, RunError, TitlesmithError
from titlesmith.runs import STAGES, Run, digest, notebook, root
from titlesmith.train import monitor

FILES = ("run.json", "corpus/corpus.json", "history.csv", "texts.jsonl", "metrics.json")
SPLITS = ("train", "valid", "test")


class Report(Run):
    """A finished run, read once; a RunError if it is unfinished, or its files are not those that the stages wrote.

    ``path`` is the run's directory, or its record in a published book: `FILES`, ``samples/`` and ``notebooks/``.
    """

    def __init__(self, path: Path):
        super().__init__(path.name)
        self.path = path
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run: it has no run.json. Move the folder out of {path.parent}")
        self.require(*STAGES)
        folders = ("corpus/",) if path.parent == root() / "runs" else ()  # a published record has no token ids
        for stage in STAGES:
            for name, written in self.record(stage)["outputs"].items():
                file = path / name
                is_needed = name in FILES or name.startswith(folders)
                if is_needed and not (file.is_file() and digest(file) == written):
                    raise RunError(f"{file} is damaged or missing. Rebuild it: {self.rerun_command}")

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
        return self._read("corpus/corpus.json", json.loads)["splits"]

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

    def chapter(self, stage: str) -> NotebookNode:
        """An executed notebook."""
        return self._read(f"notebooks/{notebook(stage).name}", partial(nbformat.reads, as_version=4))

    def measurement(self, name: str) -> float | None:
        """A number of metrics.json, such as ``perplexity.test``, its ``loss.test``, or ``hours``; None if unknown."""
        if name == "hours":
            return self.history[-1]["seconds"] / 3600
        if name.startswith("loss."):
            perplexity = self.measurement(f"perplexity{name.removeprefix('loss')}")
            return math.log(perplexity) if perplexity and perplexity > 0 else None
        value: object = self.metrics
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if is_number else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95% interval of a measurement; None if metrics.json has none."""
        group, _, key = name.rpartition(".")
        intervals = self.metrics.get(f"{group}_interval" if group else "intervals")
        ends = intervals.get(key) if isinstance(intervals, dict) else None
        is_interval = isinstance(ends, list) and [type(end) for end in ends] == [float, float]
        return tuple(ends) if is_interval else None

    def setting(self, key: str) -> object:
        """A parameter, ``stage.name``, or ``model`` or ``seed`` of the training; None if there is none."""
        stage, dot, name = key.partition(".")
        settings = self.record(stage if dot else "finetune").get("settings", {})
        return settings.get(name if dot else stage)

    def copy_to(self, folder: Path, chapters: Path) -> None:
        """Writes the record of this run that a published book keeps; ``chapters`` is the folder of its pages."""
        files = {name: self / name for name in (*FILES, "daily.jsonl")}
        files |= {f"samples/{file.name}": file for file in (self / "samples").glob("step-*.txt")}
        files |= {f"notebooks/{notebook(stage).name}": chapters / notebook(stage).name for stage in STAGES}
        files |= {quiz.FILE: chapters / quiz.FILE}
        for name, source in files.items():
            if source.is_file():
                write(folder / name, source.read_bytes())


def explain(path: Path, error: Exception) -> str:
    """Why a run is not in the book, and the remedy."""
    has_remedy = isinstance(error, TitlesmithError)
    return str(error) if has_remedy else f"{path} is damaged ({error!r:.200}). Remove it, or run its experiment again"


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
