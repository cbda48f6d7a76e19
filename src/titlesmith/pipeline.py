"""The chain: five notebooks through papermill, each only where its fingerprint says that there is something to do."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from titlesmith import models
from titlesmith.errors import InterruptError, RequestError, StageError, shorten
from titlesmith.experiment import SHARED, Experiment
from titlesmith.models.devices import GIB
from titlesmith.runs import EXECUTION_ONLY, STAGES, Run, chain_lock, notebook, root, swapped
from titlesmith.settings import declared, read_declarations

BATCH = "TITLESMITH_BATCH"  # set for kernels whose output nobody watches in a notebook
STOP_SECONDS = 60  # for a kernel to save a checkpoint after an interrupt


def chain(
    experiment: Experiment,
    name: str | None = None,
    start: str | None = None,
    until: str = STAGES[-1],
    echo: Callable[[str], None] = print,
    first: str = STAGES[0],
    around: Callable[[str], AbstractContextManager] = nullcontext,
    trains: bool = True,
) -> Run:
    """Runs the stages of an experiment that need it, in the run ``name``, by default the experiment's name.

    From the stage ``start`` on, all are executed even if nothing changed; ``until`` is the last one, ``first`` the
    first: those before it are done, and stay unchanged. ``echo`` takes a line on each stage; progress of long cells
    goes to standard error. ``around`` returns a context manager in which a stage runs. Without ``trains``, another run
    trains the same model meanwhile, so that there need not be memory for a second training.

    RunError: another process is running in this run directory. FetchError: the model cannot be downloaded; nothing has
    run. StageError: a notebook failed; the stages before it keep what they wrote.
    """
    run = Run(name or experiment.name)
    last = STAGES.index(until)
    if start and STAGES.index(start) > last:
        raise RequestError(f"--from {start} is after --until {until}: nothing would run")
    training, trained = experiment.settings["finetune"], run.record("finetune")
    is_trained = (trained.get("status"), trained.get("settings")) == ("done", training)
    if trains and last >= STAGES.index("finetune") and not is_trained:
        vocabulary = experiment.settings["corpus"]["vocabulary"]
        models.check_memory(models.hyperparameters(training["model"], vocabulary), training)
    if last >= STAGES.index("corpus"):  # the first stage that reads a model
        models.fetch(experiment.settings["corpus"]["model"])
    with chain_lock(run.path):
        for number, stage in list(enumerate(STAGES[: last + 1]))[STAGES.index(first) :]:
            settings, label = experiment.settings[stage], f"[{number + 1}/{last + 1}] {stage}"
            forced = bool(start) and number >= STAGES.index(start)
            with around(stage):
                if not forced and run.is_done(stage, settings, source(stage)):
                    echo(f"{label}: unchanged, skipped")
                    continue
                path = experiment.path and os.path.relpath(experiment.path, root())
                run.update(experiment=path, overrides=list(experiment.overrides))
                if forced:
                    run.clear(stage)
                for damaged in run.damaged(stage):
                    echo(f"{label}: {damaged} is damaged or missing")
                if has_changed_defaults(stage):
                    echo(f"warning: the defaults in {notebook(stage)} are not the committed ones; set values with -p")
                echo(f"{label}: running {notebook(stage).name}")
                execute(run, stage, settings)
            echo(f"{label}: done in {run.record(stage)['seconds']} s")
            if advice := run.record(stage).get("advice"):
                echo(advice)
    return run


def plan(experiment: Experiment, name: str | None, start: str | None, until: str) -> Iterator[str]:
    """Lines on the stages that `chain` would run or skip with these arguments, and why: ``run --dry-run``."""
    run, stages = Run(name or experiment.name), STAGES[: STAGES.index(until) + 1]
    otherwise = "unchanged, skipped"
    for number, stage in enumerate(stages, 1):
        forced = ["--from or --force"] if start in stages[:number] else []
        reasons = forced + describe_changes(run, stage, experiment.settings[stage], source(stage))
        state, seconds = f"runs: {'; '.join(reasons)}" if reasons else otherwise, run.record(stage).get("seconds")
        if reasons:
            otherwise = "runs if an earlier result changes"
        took = f" ({seconds} s last time)" if seconds is not None and state.startswith("runs") else ""
        yield f"[{number}/{len(stages)}] {stage}: {state}{took}"
        if stage == "finetune" and state.startswith("runs"):
            yield describe_needs(run, experiment)


def describe_needs(run: Run, experiment: Experiment) -> str:
    """A line on the memory and the disk that a training needs, and on what is free."""
    settings = experiment.settings["finetune"]
    shape = models.hyperparameters(settings["model"], experiment.settings["corpus"]["vocabulary"])
    memory = models.training_memory(shape, settings, settings["precision"] != "float32")
    # Of the weights that train, an old checkpoint, a new one and the best one have each weight and two moments
    adapters = 8 * shape["n_layer"] * shape["n_embd"] * settings["lora_rank"]
    disk, free = 3 * 12 * (adapters or models.num_parameters(shape)), shutil.disk_usage(root()).free
    peak = run.record("finetune").get("peak_memory_bytes")
    before = f", {peak / GIB:.1f} GiB last time" if peak else ""
    return (
        f"      memory: about {memory / GIB:.1f} GiB{before}; {models.available_memory() / GIB:.1f} GiB are free; "
        f"disk: up to {disk / 1e9:.2f} GB; {free / 1e9:.1f} GB are free"
    )


def describe_changes(run: Run, stage: str, settings: dict, source: str) -> list[str]:
    """Which settings and files have changed since a stage ran, in words; empty if its result is current."""
    record = run.record(stage)
    if run.is_done(stage, settings, source):
        return []
    if not record:
        return ["it has not run"]
    causes, before = run.causes(stage, settings, source), record["settings"]
    changed = [key for key in settings.keys() - EXECUTION_ONLY if before.get(key) != settings[key]]
    changes = [f"{stage}.{key}: {shorten(before.get(key))} -> {shorten(settings[key])}" for key in changed]
    for cause in ("inputs", "files"):
        old, new = record[cause], causes[cause]
        changes += [f"{key} has changed" for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    changes += ["its notebook has changed"] * (record["source"] != source)
    changes += ["titlesmith's version has changed"] * (record["version"] != causes["version"])
    changes += [f"{path.relative_to(run.path)} is damaged or missing" for path in run.damaged(stage)]
    if record["status"] != "done" and not changes:
        return [f"it was {record.get('stopped') or 'interrupted'}, and resumes"]
    return sorted(changes) or ["its executed notebook is missing"]


def finish(run: Run, until: str = STAGES[-1]) -> Run:
    """Ends an interrupted training at its last checkpoint, and runs the stages after it.

    If nothing was trained, or settings, notebook or an input have changed since, so that the checkpoint would be lost,
    it is a RequestError.
    """
    record = run.record("finetune")
    if record.get("status") != "running" or not (swapped(run / "model" / "last")).exists():
        raise RequestError(f"{run.name} has no interrupted training with a checkpoint: see `titlesmith list`")
    if path := run.info.get("experiment"):
        experiment = Experiment.read(root() / path, tuple(run.info["overrides"]))
    else:  # its notebooks were run by themselves
        recorded = {f"{s}.{k}": value for s in STAGES for k, value in run.record(s).get("settings", {}).items()}
        experiment = Experiment.make(run.name, recorded | {key: record["settings"][key] for key in SHARED})
    if record["fingerprint"] != run.fingerprint("finetune", experiment.settings["finetune"], source("finetune")):
        raise RequestError(
            f"{run.name}: its settings, notebook or an input has changed since. Train it again: {run.rerun_command}"
        )
    run.update_stage("finetune", ended=True)
    return chain(experiment, run.name, until=until, first="finetune")


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
    """Executes one notebook and keeps it in ``runs/<run>/notebooks/`` if it succeeded (else StageError)."""
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
        record = run.record(stage)
        count = record.get("written", (0, 0))[1]
        progress = record.get("stopped") or f"interrupted in {stage}" + f" after {count:,} texts" * bool(count)
        raise InterruptError(f"{progress}; run `{run.rerun_command}` again to resume") from None
    except PapermillExecutionError as error:
        why = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except DeadKernelError:
        why = "its kernel was killed, perhaps because the machine is out of memory"
    except Exception as error:  # a full disk: whatever papermill and nbclient let through
        why = f"{type(error).__name__}: {error}"
    # A cell that ends its kernel (``sys.exit``) leaves a notebook that papermill calls completed
    book = nbformat.read(output, 4) if output.exists() else nbformat.v4.new_notebook()
    is_executed = all(cell.execution_count for cell in book.cells if cell.cell_type == "code" and cell.source.strip())
    if not why and not (is_executed and run.record(stage).get("status") == "done"):
        why = "a cell that did not run to its end, or wrote no result"
    if why:
        if book.cells:
            output.replace(failed(run, stage))
            why += f"\nOpen {failed(run, stage)} to see it"
        raise StageError(f"{stage} failed in {why}")
    join_streams(book)
    nbformat.write(book, output)
    run.keep_notebook(stage, output)


def join_streams(book: nbformat.NotebookNode) -> None:
    """Makes standard error, which a notebook shows in red, part of its output: the last states of progress bars."""
    for cell in book.cells:
        streams = sorted((o for o in cell.get("outputs", ()) if o.output_type == "stream"), key=lambda o: o.name)
        if streams:
            merged = nbformat.v4.new_output("stream", text="".join(output.text for output in streams))
            cell.outputs = [merged, *(output for output in cell.outputs if output.output_type != "stream")]


def failed(run: Run, stage: str) -> Path:
    """Where an executed notebook lies that failed."""
    return run.executed(stage).with_suffix(".failed.ipynb")


def has_changed_defaults(stage: str) -> bool:
    """Whether a stage's notebook declares other parameters than the one that git has committed."""
    path = notebook(stage)
    if not shutil.which("git"):
        return False
    command = ["git", "-C", str(path.parent), "show", f"HEAD:./{path.name}"]
    committed = subprocess.run(command, capture_output=True).stdout
    return bool(committed) and read_declarations(stage, path, committed) != read_declarations(stage, path)


def source(stage: str) -> str:
    """SHA-256 of a notebook's cells without outputs and without the parameters, whose values are settings."""
    cells = nbformat.read(notebook(stage), 4).cells
    cells = [cell for cell in cells if "parameters" not in cell.metadata.get("tags", [])]
    return hashlib.sha256(json.dumps([(cell.cell_type, cell.source) for cell in cells]).encode()).hexdigest()
