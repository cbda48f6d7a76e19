"""The run directory: where everything lies, what each stage wrote, and who may write now.

``runs/<run>/`` is the contract between the notebooks: each reads what the ones before wrote, and nothing else.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

from titlesmith.errors import RequestError, RunError, TitlesmithError

STAGES = ("harvest", "corpus", "finetune", "generate", "evaluate")
OUTPUTS = {
    "harvest": ("papers.parquet",),
    "corpus": ("corpus",),
    "finetune": ("model", "history.csv", "samples", "tensorboard"),
    "generate": ("texts.jsonl",),
    "evaluate": ("metrics.json",),
}
SCRATCH = {"harvest": ("harvest", ".spool", "update")}  # what a stage keeps only to go on after an interruption
PACKAGES = (
    "titlesmith", "gpt-2-simple", "tensorflow", "numpy", "papermill", "polars", "tokenizers", "torch", "transformers",
    "peft",
)  # fmt: skip
MADE_UP = (
    "The papers of this run are made up: titlesmith's sample grammar invented them. They show how the report works and "
    "say nothing about science."
)
HOW = ("processes", "sharding")  # settings that say how a stage computes, not what comes out
WAITING = 10  # seconds for a kernel whose parent was killed to notice, which takes it a second or two
_locks: dict[Path, FileLock] = {}


def root() -> Path:
    """The project: ``TITLESMITH_ROOT``, else the nearest folder upward with notebooks, else the checkout, else here."""
    if folder := os.environ.get("TITLESMITH_ROOT"):
        return Path(folder).resolve()
    here, checkout = Path.cwd(), Path(__file__).parents[3]
    return next((p for p in (here, *here.parents, checkout) if (p / "notebooks" / "01_harvest.ipynb").is_file()), here)


def notebook(stage: str) -> Path:
    """The notebook of a stage, in the project or, where there is none (Colab), in the installed package."""
    name = f"{STAGES.index(stage) + 1:02d}_{stage}.ipynb"
    project = root() / "notebooks" / name
    return project if project.is_file() else Path(__file__).parents[1] / "notebooks" / name


def versions() -> dict[str, str]:
    """Versions of the packages that a run depends on, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``path`` and renames it to ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def swapping(folder: Path) -> Iterator[Path]:
    """Gives a new folder beside ``folder``, which takes its place, whole, when the block ends without an error.

    A process that is killed between two renames leaves the old folder under another name: `swapped` puts it back.
    """
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.replace(old)
        new.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def swapped(folder: Path) -> Path:
    """The folder, put back where an interrupted `swapping` left it under its other name."""
    old = folder.with_name(f".{folder.name}.old")
    if not folder.exists() and old.exists():
        old.replace(folder)
    return folder


def write_json(path: Path, value: object) -> None:
    """Writes ``value`` as JSON, whole or not at all; NaN is refused (ValueError)."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(path: Path) -> list[Path]:
    """The file ``path``, or the files below it, in order; hidden ones, which are not whole yet, are left out."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in found if file.is_file() and not file.name.startswith(".")]


def hold(path: Path, waiting: float = 0) -> None:
    """Takes the lock file ``path`` for this process, which already holding it does not change.

    Raises
    ------
    RunError
        Another process still holds it after ``waiting`` seconds. The operating system lets go of a lock when
        its process ends, however it ends.
    """
    lock = _locks.setdefault(path, FileLock(path, thread_local=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not lock.is_locked:
            lock.acquire(timeout=waiting)
    except Timeout:
        raise RunError(
            f"{path.parent} is in use by another titlesmith or notebook; wait for it, stop it, or give this run "
            "another name with --name"
        ) from None


def release(path: Path) -> None:
    """Lets go of a lock taken with `hold`."""
    if path in _locks:
        _locks.pop(path).release()


class Run:
    """One run directory and its ``run.json``.

    Parameters
    ----------
    name
        The folder below ``runs/``; made by the first write.
    """

    def __init__(self, name: str):
        if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
            raise RequestError(
                f"{name!r} cannot name a run: a name has letters, digits and _ . - and begins with none of . -"
            )
        self.name = name
        self.path = root() / "runs" / name

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @property
    def info(self) -> dict:
        """The content of run.json; empty where nothing has run yet."""
        info = self._read("run.json", json.loads) if (self / "run.json").exists() else {}
        stages = info.get("stages", {}) if isinstance(info, dict) else None
        if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
            raise RunError(f"{self / 'run.json'} is damaged: it holds no run; remove it, and the run starts anew")
        return info

    def _read(self, name: str, parse: Callable) -> object:
        path = self / name
        try:
            return parse(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error}); remove it, and the run makes it anew") from None

    def update(self, **values: object) -> None:
        """Sets top-level values of run.json."""
        write_json(self / "run.json", {"name": self.name} | self.info | values)

    def record(self, stage: str) -> dict:
        """What run.json says of a stage; empty where it has not begun."""
        return self.info.get("stages", {}).get(stage, {})

    def update_stage(self, stage: str, **values: object) -> None:
        """Sets values of a stage's record in run.json."""
        stages = self.info.get("stages", {})
        self.update(stages=stages | {stage: stages.get(stage, {}) | values})

    def digests(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file that a stage wrote, by its path in the run directory."""
        paths = [self / name for name in OUTPUTS[stage]]
        return {f.relative_to(self.path).as_posix(): digest(f) for path in paths for f in files(path)}

    def verify(self, stage: str) -> None:
        """Checks the files of a finished stage against their recorded digests.

        Raises
        ------
        RunError
            A file is missing or differs; the message names it and the command that rebuilds it.
        """
        for name, expected in self.record(stage).get("outputs", {}).items():
            path = self / name
            if not path.is_file() or digest(path) != expected:
                state = "is damaged: its content has changed" if path.is_file() else "is missing"
                raise RunError(f"{path} {state} since the stage {stage} wrote it. {self.again}")

    def inputs(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file that the stages before this one left, as their records say."""
        earlier = (self.record(name).get("outputs", {}) for name in STAGES[: STAGES.index(stage)])
        return {path: value for outputs in earlier for path, value in outputs.items()}

    def fingerprint(self, stage: str, settings: dict, source: str) -> str:
        """Identifies what a stage is made of: settings, files it reads, its notebook's source, this version."""
        named = filter(None, (settings.get("path"), settings.get("model", "").removeprefix("hf:")))
        read = [digest(f) for name in named for place in (root(), root() / "models") for f in files(place / name)]
        settings = {key: value for key, value in settings.items() if key not in HOW}
        made_of = [stage, settings, self.inputs(stage), read, source, metadata.version("titlesmith")]
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def begin(self, stage: str, settings: dict, source: str = "") -> None:
        """Takes the run for this process and starts a stage.

        What an interrupted attempt wrote is kept where it was made of the same things, so that the stage goes on
        from there, and removed where it was not.

        Raises
        ------
        RunError
            Another process is writing this run, or an earlier stage is missing.
        """
        hold(self / ".stage.lock", WAITING)
        self.require(*STAGES[: STAGES.index(stage)])
        made_of = self.fingerprint(stage, settings, source)
        if self.record(stage).get("fingerprint") != made_of:
            self.clear(stage)
        self.update(versions=versions())
        self.update_stage(
            stage,
            status="running",
            fingerprint=made_of,
            settings=settings,
            inputs=self.inputs(stage),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def finish(self, stage: str, **facts: object) -> None:
        """Ends a stage: its files are whole; ``facts`` (why training stopped, say) go into its record."""
        now = datetime.now(UTC)
        seconds = (now - datetime.fromisoformat(self.record(stage)["started"])).total_seconds()
        ended = {"ended": now.isoformat(timespec="seconds"), "seconds": round(seconds)}
        self.update_stage(stage, status="done", outputs=self.digests(stage), **ended, **facts)
        release(self / ".stage.lock")

    def clear(self, stage: str) -> None:
        """Removes what a stage wrote, and its record."""
        for name in (*OUTPUTS[stage], *SCRATCH.get(stage, ())):
            path = self / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self.update(stages={k: v for k, v in self.info.get("stages", {}).items() if k != stage})

    def is_current(self, stage: str) -> bool:
        """Whether a stage is finished and read what the stages before it hold now."""
        record = self.record(stage)
        return record.get("status") == "done" and record.get("inputs") == self.inputs(stage)

    def require(self, *stages: str) -> None:
        """Checks that these stages are current (RunError)."""
        for stage in stages:
            if not self.is_current(stage):
                first = next((name for name in STAGES[: STAGES.index(stage)] if not self.is_current(name)), stage)
                status = self.record(first).get("status")
                why = {None: "has not run", "running": "was interrupted, or is still at work"}.get(
                    status, "is out of date: what lies before it has changed"
                )
                raise RunError(f"{self.name}: its {first} {why}. {self.again}; or run {notebook(first).name}")

    @property
    def again(self) -> str:
        """What to do to have the run's missing stages made, as a sentence."""
        sweep, asked = self.info.get("sweep"), self.info.get("overrides")
        if isinstance(sweep, dict):
            return f"The command of the sweep {sweep.get('name')}, given again, makes what is missing"
        words = [word for override in asked or () for word in ("-p", override)]
        command = ["titlesmith", "run", self.info.get("experiment") or "EXPERIMENT", "--name", self.name, *words]
        return f"{shlex.join(command)} makes what is missing"

    def executed(self, stage: str) -> Path:
        """Where the executed notebook of a stage lies once it has succeeded."""
        return self / "notebooks" / notebook(stage).name

    def is_done(self, stage: str, settings: dict, source: str) -> bool:
        """Whether a stage needs no work: same fingerprint, its files as it left them, its notebook executed."""
        record = self.record(stage)
        return (
            self.is_current(stage)
            and self.executed(stage).is_file()
            and record["outputs"] == self.digests(stage)
            and record["fingerprint"] == self.fingerprint(stage, settings, source)
        )

    @property
    def complete(self) -> bool:
        """Whether all five stages succeeded, each from what the stages before it hold now, and their files are here."""
        return all(
            self.is_current(stage)
            and self.executed(stage).is_file()
            and all((self / name).is_file() for name in self.record(stage)["outputs"])
            for stage in STAGES
        )

    @property
    def made_up(self) -> bool:
        """Whether the papers are invented (``source: sample``), which every page that shows them must say."""
        return self.record("harvest").get("settings", {}).get("source") == "sample"

    @property
    def source_label(self) -> str:
        """What was harvested, in a few words for titles of figures and pages."""
        settings = self.record("harvest").get("settings", {})
        return "made-up sample papers" if self.made_up else Path(settings.get("path") or settings["source"]).name

    @property
    def metrics(self) -> dict:
        """The content of metrics.json."""
        self.require("evaluate")
        return self._read("metrics.json", json.loads)

    @property
    def texts(self) -> list[dict]:
        """The generated texts, a dictionary a line of texts.jsonl."""
        self.require("generate")
        return self._read("texts.jsonl", lambda text: [json.loads(line) for line in text.split("\n")[:-1]])


def runs() -> list[Run]:
    """Every run directory, the one that was worked on last first; damaged ones are named on standard error."""
    found: dict[Run, str] = {}
    for path in sorted((root() / "runs").glob("*/run.json")):
        try:
            run = Run(path.parent.name)
            found[run] = max((run.record(stage).get("ended", "") for stage in STAGES), default="")
        except TitlesmithError as error:
            print(f"left out: {error}", file=sys.stderr)
    return sorted(found, key=found.get, reverse=True)


def existing(name: str) -> Run:
    """The run of this name (RequestError where there is none)."""
    run = Run(name)
    if not run.info:
        raise RequestError(f"there is no run {name}; there are {', '.join(r.name for r in runs()) or 'none'}")
    return run
