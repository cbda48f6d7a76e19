"""The chain: five notebooks through papermill, each only where its fingerprint says that there is something to do."""

import ast
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from titlesmith import models
from titlesmith.errors import InterruptError, RequestError, StageError
from titlesmith.experiment import SHARED, Experiment
from titlesmith.runs import STAGES, Run, chain_lock, notebook, root, swapped
from titlesmith.runs.record import describe_damage
from titlesmith.settings import declared

BATCH = "TITLESMITH_BATCH"  # set for kernels whose output nobody watches in a notebook
STOP_SECONDS = 60  # for a kernel to save a checkpoint after an interrupt


def chain(
    experiment: Experiment,
    name: str | None = None,
    start: str | None = None,
    until: str = STAGES[-1],
    echo: Callable[[str], None] = print,
    first: str = STAGES[0],
) -> Run:
    """Runs the stages of an experiment that need it.

    Parameters
    ----------
    experiment
        What to run.
    name
        Of the run; the experiment's by default.
    start
        Execute this stage and all later ones, even if nothing changed.
    until
        The last stage.
    echo
        Takes a line on each stage. Progress of long cells goes to standard error while they run.
    first
        The first stage: those before it are done, and stay unchanged.

    Raises
    ------
    RunError
        Another process is running in this run directory.
    FetchError
        The model is missing and cannot be downloaded; nothing has run.
    StageError
        A notebook failed; the stages before it keep what they wrote.
    """
    run = Run(name or experiment.name)
    last = STAGES.index(until)
    if start and STAGES.index(start) > last:
        raise RequestError(f"--from {start} is after --until {until}: nothing would run")
    training, trained = experiment.settings["finetune"], run.record("finetune")
    if last >= STAGES.index("finetune") and (trained.get("status"), trained.get("settings")) != ("done", training):
        vocabulary = experiment.settings["corpus"]["vocabulary"]
        models.check_memory(models.hyperparameters(training["model"], vocabulary), training)
    if last >= STAGES.index("corpus"):  # the first stage that reads a model
        models.fetch(experiment.settings["corpus"]["model"])
    with chain_lock(run.path):
        for number, stage in list(enumerate(STAGES[: last + 1]))[STAGES.index(first) :]:
            settings, label = experiment.settings[stage], f"[{number + 1}/{last + 1}] {stage}"
            forced = bool(start) and number >= STAGES.index(start)
            if not forced and run.is_done(stage, settings, source(stage)):
                echo(f"{label}: unchanged, skipped")
                continue
            path = experiment.path and os.path.relpath(experiment.path, root())
            run.update(experiment=path, overrides=list(experiment.overrides))
            if forced:
                run.clear(stage)
            if damaged := run.damaged(stage):
                echo(f"{label}: {describe_damage(damaged)}")
            for warning in check_parameters_cell(stage):
                echo(f"warning: {warning}")
            echo(f"{label}: running {notebook(stage).name}")
            execute(run, stage, settings)
            echo(f"{label}: done in {run.record(stage)['seconds']} s")
            if advice := run.record(stage).get("advice"):
                echo(advice)
    return run


def finish(run: Run, until: str = STAGES[-1]) -> Run:
    """Ends an interrupted training at its last checkpoint, and runs the stages after it.

    The settings are those of the run's record. If nothing was trained, or the notebook or an input has changed since,
    so that the checkpoint would be lost, it is a RequestError.
    """
    record = run.record("finetune")
    if record.get("status") != "running" or not (swapped(run / "model" / "last")).exists():
        raise RequestError(f"{run.name} has no interrupted training with a checkpoint: see `titlesmith list`")
    path = run.info.get("experiment")
    sections, overrides = {}, ()
    if path and (root() / path).is_file():
        overrides = tuple(run.info.get("overrides", ()))
        sections = Experiment.read(root() / path, overrides).settings
    sections |= {stage: run.record(stage)["settings"] for stage in STAGES if "settings" in run.record(stage)}
    shared = {key: record["settings"][key] for key in SHARED}
    experiment = replace(Experiment.make(run.name, sections, shared), path=path and root() / path, overrides=overrides)
    if record.get("fingerprint") != run.fingerprint("finetune", experiment.settings["finetune"], source("finetune")):
        raise RequestError(
            f"{run.name}: its notebook or an input has changed since. Train it again: {run.rerun_command}"
        )
    run.update_stage("finetune", ended=True)
    return chain(experiment, until=until, first="finetune")


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels with the Python that runs titlesmith, whatever kernel is installed under the name python3.

    A kernel is interrupted before it is shut down, and has time to save a checkpoint.
    """

    shutdown_wait_time = 2 * STOP_SECONDS  # after half of it, the kernel gets SIGTERM

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel of this Python."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        env = {"TITLESMITH_ROOT": str(root()).replace("$", "$$"), BATCH: "1"}
        return KernelSpec(argv=argv, display_name="Python 3", language="python", env=env)


def execute(run: Run, stage: str, settings: dict) -> None:
    """Executes one notebook and keeps it in ``runs/<run>/notebooks/`` where it succeeded (else StageError)."""
    output = run.executed(stage).with_name(f".{notebook(stage).name}")
    for path in (output, run.executed(stage), failed(run, stage)):
        path.unlink(missing_ok=True)
    given = {k: v for k, v in settings.items() if v != declared(stage)[k].default}
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else older kernels print warnings of a debugger
    why = ""
    try:
        papermill.execute_notebook(
            str(notebook(stage)),
            str(output),
            {"run_name": run.name} | given,
            kernel_name="python3",
            cwd=str(root()),
            progress_bar=False,
            stderr_file=sys.stderr,  # progress bars, while the cell runs
            coalesce_streams=True,  # and only their last state in the notebook
            start_timeout=180,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's log is not for the terminal
            kernel_manager_class=OwnKernelManager,
        )
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # else it prints that the interrupted kernel ended
        raise InterruptError(f"{describe_progress(run, stage)}; run `{run.rerun_command}` again to resume") from None
    except PapermillExecutionError as error:
        why = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except DeadKernelError:
        why = "its kernel was killed, perhaps because the machine is out of memory"
    except Exception as error:  # a dead kernel, a full disk: whatever papermill and nbclient let through
        why = f"{type(error).__name__}: {error}"
    cell = unfinished(output) if output.exists() else ""
    if not why.startswith("cell "):
        why = ". ".join(filter(None, (cell, why)))
    if why := why or ("" if run.record(stage).get("status") == "done" else "it wrote no result"):
        if output.exists():
            output.replace(failed(run, stage))
            why += f"\nOpen {failed(run, stage)} to see it"
        raise StageError(f"{stage} failed in {why}")
    join_streams(output)
    run.keep_notebook(stage, output)


def join_streams(path: Path) -> None:
    """Makes standard error, which a notebook shows in red, part of its output: the last states of progress bars."""
    book = nbformat.read(path, 4)
    for cell in book.cells:
        streams = sorted((o for o in cell.get("outputs", ()) if o.output_type == "stream"), key=lambda o: o.name)
        if streams:
            merged = nbformat.v4.new_output("stream", text="".join(output.text for output in streams))
            cell.outputs = [merged, *(output for output in cell.outputs if output.output_type != "stream")]
    nbformat.write(book, path)


def describe_progress(run: Run, stage: str) -> str:
    """How far an interrupted stage has come, in words."""
    record = run.record(stage)
    texts = record.get("written", (0, 0))[1]
    return record.get("stopped") or f"interrupted in {stage}" + f" after {texts:,} texts" * bool(texts)


def failed(run: Run, stage: str) -> Path:
    """Where an executed notebook lies that failed."""
    return run.executed(stage).with_suffix(".failed.ipynb")


def unfinished(path: Path) -> str:
    """Why an executed notebook failed although papermill raised nothing; empty if it succeeded.

    A cell that ends its kernel (``sys.exit``) and a kernel that dies leave notebooks that papermill calls completed.
    """
    book = nbformat.read(path, 4)
    for cell in book.cells:
        if cell.cell_type == "code" and cell.source.strip():
            status = cell.metadata.get("papermill", {}).get("status")
            if status != "completed" or cell.execution_count is None:
                first = cell.source.splitlines()[0]
                return f"the cell that begins {first!r}: it is {status or 'pending'}, not run to its end"
    return "a cell (see the notebook)" if book.metadata.get("papermill", {}).get("exception") else ""


def source(stage: str) -> str:
    """SHA-256 of a notebook's cells without outputs and without the parameters cell, whose values are settings."""
    cells = nbformat.read(notebook(stage), 4).cells
    cells = [(c.cell_type, c.source) for c in cells if "parameters" not in c.metadata.get("tags", [])]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def check_parameters_cell(stage: str) -> list[str]:
    """Warnings about a notebook's parameters cell, which `source` leaves out.

    Code that declares no parameter would change results unnoticed. A default that differs from the committed notebook
    changes every experiment that does not set it.
    """
    path, warnings = notebook(stage), []
    cell = _parameters_cell(path.read_text("utf-8"))
    if not all(isinstance(statement, ast.AnnAssign) for statement in ast.parse(cell).body):
        warnings.append(
            f"{path}: its parameters cell has code that is not a parameter, and runs are not rebuilt when that code "
            "changes. Move it to another cell"
        )
    committed = None
    if shutil.which("git"):
        command = ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"]
        committed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if committed and _parameters_cell(committed) != cell:
        warnings.append(
            f"{path}: its parameters cell differs from the committed one. Its defaults apply to every experiment that "
            "does not set them; set values in the experiment, or with -p"
        )
    return warnings


def _parameters_cell(text: str) -> str:
    cells = nbformat.reads(text, 4).cells
    return next((c.source for c in cells if "parameters" in c.metadata.get("tags", [])), "")
