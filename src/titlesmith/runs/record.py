"""The run directory ``runs/<run>/`` and its ``run.json``: what each stage wrote, from which inputs and settings.

A stage is "running" from `Run.begin` to `Run.finish`, then "done". Only a running stage resumes from its own files;
those of a finished stage must have the digests that ``run.json`` records.
"""

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from titlesmith.errors import RequestError, RunError, TitlesmithError
from titlesmith.runs import locks
from titlesmith.runs.files import digest, fsync, list_files, remove, write_json
from titlesmith.runs.locks import hold, release
from titlesmith.runs.paths import STAGES, notebook, root

OUTPUTS = {
    "harvest": ("papers.parquet",),
    "corpus": ("corpus",),
    "finetune": ("model", "history.csv", "samples", "tensorboard"),
    "generate": ("texts.jsonl", "texts.txt"),
    "evaluate": ("metrics.json",),
}
SCRATCH = {"harvest": ("harvest", ".spool", "update")}  # files that a stage needs only to resume
PACKAGES = ("titlesmith", "gpt-2-simple", "tensorflow", "numpy", "papermill", "polars", "tokenizers", "torch",
            "transformers", "peft")  # fmt: skip
MADE_UP = (
    "The papers of this run are made up: titlesmith's sample grammar invented them. They show how the report works and "
    "say nothing about science."
)
EXECUTION_ONLY = ("processes", "sharding")  # settings of how a stage is computed; they do not change its result


def versions() -> dict[str, str]:
    """Versions of the packages that a run depends on, those that are installed."""
    installed = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


class Run:
    """One directory below ``runs/`` and its ``run.json``; the first write creates them."""

    def __init__(self, name: str):
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise RequestError(
                f"{name[:60]!r} cannot name a run: use letters, digits and _ . - and begin with a letter, a digit or _"
            )
        self.name = name
        self.path = root() / "runs" / name

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    # --- run.json

    @property
    def info(self) -> dict:
        """The content of run.json; empty before the first stage."""
        return self._read("run.json", _parse_info) if (self / "run.json").exists() else {}

    def _read(self, name: str, parse: Callable) -> object:
        path = self / name
        try:
            return parse(path.read_text("utf-8"))
        except (OSError, ValueError, AttributeError) as error:
            remedy = "Remove it and run again" if name == "run.json" else f"Rebuild it: {self.rerun_command}"
            raise RunError(f"{path} is damaged ({error}). {remedy}") from None

    def update(self, **values: object) -> None:
        """Sets top-level values of run.json."""
        write_json(self / "run.json", {"name": self.name} | self.info | values)

    def record(self, stage: str) -> dict:
        """The record of a stage in run.json; empty before the stage begins."""
        return self.info.get("stages", {}).get(stage, {})

    def update_stage(self, stage: str, **values: object) -> None:
        """Sets values of a stage's record in run.json."""
        self.update(stages=self.info.get("stages", {}) | {stage: self.record(stage) | values})

    # --- what a stage reads and writes

    def digests(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file that a stage wrote, by its path in the run directory."""
        files = (file for name in OUTPUTS[stage] for file in list_files(self / name))
        return {file.relative_to(self.path).as_posix(): digest(file) for file in files}

    def inputs(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file that the stages before this one wrote, from their records."""
        earlier = (self.record(name).get("outputs", {}) for name in STAGES[: STAGES.index(stage)])
        return {path: value for outputs in earlier for path, value in outputs.items()}

    def causes(self, stage: str, settings: dict, source: str) -> dict:
        """All that decides a stage's result: settings, files it reads, its notebook's source, this version."""
        models = (settings.get(key, "").removeprefix("hf:") for key in ("model", "reference_model"))
        names = filter(None, (settings.get("path"), *models))
        paths = (folder / name for name in names for folder in (root(), root() / "models"))
        files = {os.path.relpath(file, root()): digest(file) for path in paths for file in list_files(path)}
        version = metadata.version("titlesmith")
        inputs = self.inputs(stage)
        return {"settings": settings, "inputs": inputs, "files": files, "source": source, "version": version}

    def fingerprint(self, stage: str, settings: dict, source: str) -> str:
        """Hash of all that decides a stage's result."""
        return _hash_causes(self.causes(stage, settings, source))

    # --- stages begin and finish

    def begin(self, stage: str, settings: dict, source: str = "") -> None:
        """Locks the run for this process and starts a stage, unless an earlier one is missing (RunError).

        It resumes from the files of an interrupted stage with the same fingerprint; others are removed.
        """
        hold(self / ".stage.lock", locks.LOCK_TIMEOUT)
        self.require(*STAGES[: STAGES.index(stage)])
        causes, record = self.causes(stage, settings, source), self.record(stage)
        fingerprint = _hash_causes(causes)
        damaged = self.damaged(stage)
        for path in damaged:
            print(f"{path} is damaged or missing: the {stage} is rebuilt")
        if damaged or record.get("fingerprint") != fingerprint or record.get("status") not in ("running", "done"):
            self.clear(stage)
        self.update(versions=versions())
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.update_stage(stage, status="running", fingerprint=fingerprint, **causes, started=started)

    def finish(self, stage: str, **facts: object) -> None:
        """Ends a stage once its files are on the disk; ``facts`` are added to its record."""
        outputs, now = self.digests(stage), datetime.now(UTC)
        for path in {self.path, *(path for name in outputs for path in (self / name, (self / name).parent))}:
            fsync(path)
        facts["seconds"] = round((now - datetime.fromisoformat(self.record(stage)["started"])).total_seconds())
        self.update_stage(stage, status="done", outputs=outputs, ended=now.isoformat(timespec="seconds"), **facts)
        release(self / ".stage.lock")

    def clear(self, stage: str) -> None:
        """Removes a stage's record, then what it wrote."""
        self.update(stages={k: v for k, v in self.info.get("stages", {}).items() if k != stage})
        for name in (*OUTPUTS[stage], *SCRATCH.get(stage, ())):
            remove(self / name)

    def executed(self, stage: str) -> Path:
        """A stage's executed notebook, which exists once the stage has succeeded."""
        return self / "notebooks" / notebook(stage).name

    def keep_notebook(self, stage: str, path: Path) -> None:
        """Moves an executed notebook to its place and records its digest."""
        fsync(path)
        self.update_stage(stage, notebook=digest(path))
        path.replace(self.executed(stage))
        fsync(self.executed(stage).parent)

    # --- is a stage's result still valid?

    def is_current(self, stage: str) -> bool:
        """Whether a stage is finished, and the stages before it have not changed since."""
        record = self.record(stage)
        return record.get("status") == "done" and record.get("inputs") == self.inputs(stage)

    def damaged(self, stage: str) -> list[Path]:
        """Files of a finished stage that are missing, or that differ from what the stage wrote."""
        record = self.record(stage)
        outputs = record.get("outputs", {}) if record.get("status") == "done" else {}
        return [self / name for name, value in outputs.items() if not _has_digest(self / name, value)]

    def verify(self, stage: str) -> None:
        """Checks the files of a finished stage against their recorded digests (RunError)."""
        if damaged := self.damaged(stage):
            raise RunError(f"{damaged[0]} is damaged or missing. Rebuild it: {self.rerun_command}")

    def is_done(self, stage: str, settings: dict, source: str) -> bool:
        """Whether a stage needs no work: same fingerprint, files with the recorded digests, its notebook executed."""
        record = self.record(stage)
        return (
            self.is_current(stage)
            and _has_digest(self.executed(stage), record.get("notebook"))
            and not self.damaged(stage)
            and record["fingerprint"] == self.fingerprint(stage, settings, source)
        )

    @property
    def complete(self) -> bool:
        """Whether all stages are current and the files that they recorded exist."""
        if not all(map(self.is_current, STAGES)):
            return False
        files = [self / name for stage in STAGES for name in self.record(stage)["outputs"]]
        return all(path.is_file() for path in (*files, *map(self.executed, STAGES)))

    def require(self, *stages: str) -> None:
        """Checks that these stages are current (RunError)."""
        if all(map(self.is_current, stages)):
            return
        first = next(name for name in STAGES if not self.is_current(name))
        reasons = {None: "has not run", "running": "was interrupted, or is still running"}
        why = reasons.get(self.record(first).get("status"), "is out of date: an earlier stage has changed")
        raise RunError(f"{self.name}: its {first} {why}. Run it: {self.rerun_command}; or open {notebook(first).name}")

    @property
    def rerun_command(self) -> str:
        """The command that runs this run's missing stages, and resumes interrupted ones."""
        sweep, overrides = self.info.get("sweep"), self.info.get("overrides")
        if isinstance(sweep, dict):
            return f"the command of the sweep {sweep.get('name')} again"
        options = [word for override in overrides or () for word in ("-p", override)]
        experiment = self.info.get("experiment") or "EXPERIMENT"
        return shlex.join(["titlesmith", "run", experiment, "--name", self.name, *options])

    @property
    def how_to_resume(self) -> str:
        """The end of a sentence on an interrupted stage."""
        has_command = self.info.get("experiment") or self.info.get("sweep")
        return f"run the cell{f' (or `{self.rerun_command}`)' if has_command else ''} again to resume"

    # --- what readers show

    @property
    def made_up(self) -> bool:
        """Whether the papers are invented (``source: sample``), which every page that shows them must say."""
        return self.record("harvest").get("settings", {}).get("source") == "sample"

    @property
    def source_label(self) -> str:
        """The source of the papers, for titles of figures and pages."""
        settings = self.record("harvest").get("settings", {})
        return "made-up sample papers" if self.made_up else Path(settings.get("path") or settings["source"]).name

    @property
    def metrics(self) -> dict:
        """The content of metrics.json."""
        self.require("evaluate")
        return self._read("metrics.json", json.loads)

    @property
    def texts(self) -> list[dict]:
        """The generated texts, a dictionary for each line of texts.jsonl."""
        self.require("generate")
        return self._read("texts.jsonl", _parse_lines)

    @property
    def daily(self) -> list[dict]:
        """The rows of daily.jsonl (`titlesmith.daily`); empty if it does not exist."""
        return self._read("daily.jsonl", _parse_lines) if (self / "daily.jsonl").exists() else []


def _parse_info(text: str) -> dict:
    info = json.loads(text)
    if not all(isinstance(record, dict) for record in info.get("stages", {}).values()):
        raise ValueError("it does not describe a run")
    return info


def _parse_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _hash_causes(causes: dict) -> str:
    settings = {key: value for key, value in causes["settings"].items() if key not in EXECUTION_ONLY}
    return hashlib.sha256(json.dumps(causes | {"settings": settings}, sort_keys=True).encode()).hexdigest()


def _has_digest(path: Path, value: str) -> bool:
    return path.is_file() and digest(path) == value


def list_runs() -> list[Run]:
    """Every run directory, the latest first; damaged ones are named on standard error."""
    ended: dict[Run, str] = {}
    for path in sorted((root() / "runs").glob("*/run.json")):
        try:
            run = Run(path.parent.name)
            ended[run] = max(run.record(stage).get("ended", "") for stage in STAGES)
        except TitlesmithError as error:
            print(f"skipped: {error}", file=sys.stderr)
    return sorted(ended, key=ended.get, reverse=True)


def open_run(name: str) -> Run:
    """The run with this name (RequestError if it does not exist)."""
    run = Run(name)
    if not run.info:
        raise RequestError(f"there is no run {name}; there are {', '.join(r.name for r in list_runs()) or 'none'}")
    return run
