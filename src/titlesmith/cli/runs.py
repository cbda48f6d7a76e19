"""Commands that make runs and show them."""

import json
import sys
from typing import Annotated, Optional

import typer

from titlesmith.cli.options import ANY, AsJson, ExperimentName, NewName, Overrides, RunName, Stage, Until
from titlesmith.errors import DAMAGE
from titlesmith.runs import STAGES, Run, is_locked, list_runs, open_run, project

LINE = "{:<28} {:<10.10} {:<16.16} {:>9} {:>10} {:>13}  {}"  # of the list of runs


def run(
    experiment: ExperimentName,
    name: NewName = None,
    p: Overrides = None,
    start: Annotated[
        Optional[Stage], typer.Option("--from", metavar="STAGE", help=f"Run again from this stage on: {ANY}.")
    ] = None,
    until: Until = STAGES[-1],
    force: Annotated[bool, typer.Option("--force", help="Run all stages again.")] = False,
    processes: Annotated[Optional[int], typer.Option(help="Training processes: -p finetune.processes=N.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, and run nothing.")] = False,
) -> None:
    """Run the notebooks of an experiment whose parameters, inputs or source changed, and print the results."""
    project()  # before slow imports
    from titlesmith import experiment as experiments
    from titlesmith.pipeline import chain, plan

    overrides = [*(p or ()), *([] if processes is None else [f"finetune.processes={processes}"])]
    chosen = experiments.Experiment.read(experiments.find(experiment), tuple(overrides))
    if dry_run:
        print(*plan(chosen, name, STAGES[0] if force else start, until), sep="\n")
    else:
        _report(chain(chosen, name, STAGES[0] if force else start, until), until)


def finish(run: RunName, until: Until = STAGES[-1]) -> None:
    """End an interrupted training with what it has learned, run the stages after it, and print the results."""
    from titlesmith.pipeline import finish

    _report(finish(open_run(run), until), until)


def _report(run: Run, until: str) -> None:
    if run.complete:
        show(run.name)
    else:
        print(f"run {run.name}: done until {until}, in {run.path}")


def sweep(
    experiment: Annotated[str, typer.Argument(help="Experiment or sweep file: a path, or a name in experiments/.")],
    sets: Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="SECTION.KEY=V1,V2", help="Vary a parameter; of several, all combinations."),
    ] = None,
    p: Overrides = None,
    repeat: Annotated[Optional[int], typer.Option(help="Runs of each combination, with different seeds.")] = None,
    name: Annotated[Optional[str], typer.Option(help="The sweep's name, the beginning of its runs' names.")] = None,
    until: Until = STAGES[-1],
    workers: Annotated[Optional[int], typer.Option(help="Parallel runs. Default: as many as fit.")] = None,
    memory: Annotated[Optional[str], typer.Option(help="Memory of all parallel runs, such as 8GB.")] = None,
    scheduler: Annotated[Optional[str], typer.Option(help="A Dask scheduler, such as tls://host:8786.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and what is missing; run nothing.")
    ] = False,
) -> None:
    """Run an experiment with all combinations of parameters, on this machine or a Dask cluster."""
    from titlesmith import sweep

    remarks = [] if dry_run else None
    plan = sweep.read(experiment, tuple(sets or ()), tuple(p or ()), repeat, name, until, remarks)
    if dry_run:
        print(*plan.describe(), *(f"missing: {remark}" for remark in remarks), sep="\n")
        return
    done = sweep.run(plan, scheduler, workers, memory)
    print(f"sweep {plan.name}: {len(done['runs'])} runs done in {done['seconds']:.0f} s", sweep.record_path(plan.name))


def list_(as_json: AsJson = False) -> None:
    """List all runs, newest first: date, model, papers, validation perplexity, state and step."""
    rows = []
    for run in list_runs():
        try:
            rows.append(summarize(run))
        except DAMAGE as error:
            print(f"skipped: {run.name}: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"no runs yet in {project()}: titlesmith run sample-titles makes one")
        return
    print(LINE.format("run", "date", "model", "papers", "perplexity", "step", "state"))
    for row in rows:
        papers, perplexity = _format(row["papers"], ","), _format(row["perplexity"], ".2f")
        step = f"{row['step']}/{row['steps']}" if row["step"] else "-"
        print(LINE.format(row["name"], row["date"] or "-", row["model"] or "-", papers, perplexity, step, row["state"]))


def _format(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def summarize(run: Run) -> dict:
    """A run in one row, of values that JSON has; None for what is not known."""
    records = {stage: run.record(stage) for stage in STAGES}
    training = records["finetune"]
    settings = training.get("settings") or records["corpus"].get("settings") or {}
    return {
        "name": run.name,
        "date": max(record.get("ended") or record.get("started") or "" for record in records.values()) or None,
        "source": run.source_label if records["harvest"].get("settings") else None,
        "model": settings.get("model"),
        "papers": records["harvest"].get("counts", {}).get("kept"),
        "perplexity": run.metrics["perplexity"]["valid"] if run.is_current("evaluate") else None,
        "state": describe_state(run, records),
        "step": training.get("steps") or _last_step(run),
        "steps": settings.get("steps"),
    }


def describe_state(run: Run, records: dict[str, dict]) -> str:
    """How far a run has come, in words."""
    if run.complete:
        return "complete"
    for stage in reversed(STAGES):
        if records[stage].get("status") == "running":
            is_running = any(is_locked(run / name) for name in (".stage.lock", ".chain.lock"))
            return f"{stage} is running" if is_running else records[stage].get("stopped") or f"{stage} was interrupted"
    finished = [stage for stage in STAGES if records[stage].get("status") == "done"]
    return f"done until {finished[-1]}" if finished else "nothing done"


def _last_step(run: Run) -> int | None:
    """The last step in a run's history; the last line may be incomplete."""
    history = run / "history.csv"
    lines = history.read_text("utf-8").split("\n")[1:-1] if history.is_file() else []
    return int(lines[-1].partition(",")[0]) if lines else None


def show(run: RunName, as_json: AsJson = False) -> None:
    """Print a run's papers, why its training stopped, its perplexity and ten texts."""
    opened = open_run(run)
    row, current = summarize(opened), {stage: opened.is_current(stage) for stage in STAGES}
    texts = opened.texts if current["generate"] else []
    if as_json:
        stages = {stage: opened.record(stage) for stage in STAGES}
        metrics = opened.metrics if current["evaluate"] else {}
        print(json.dumps(row | {"stages": stages, "metrics": metrics, "texts": texts}, indent=2, ensure_ascii=False))
        return
    opened.require("harvest")
    print(f"\nrun                    {opened.name} ({opened.source_label})")
    if current["finetune"]:
        training = opened.record("finetune")
        steps = training.get("steps")
        print(f"training stopped       {training.get('stop_reason')}")
        print(f"steps                  {steps}; the weights of step {training.get('kept_step', steps)} were kept")
    if current["evaluate"]:
        print(f"validation perplexity  {_format(row['perplexity'], '.2f')}")
    if texts:
        print("texts", *(f"  {' '.join(text['text'].split())}" for text in texts[:10]), sep="\n")
    if missing := [stage for stage in STAGES if not current[stage]]:
        print(f"not done yet           {', '.join(missing)}; run {opened.rerun_command}")


def params(stage: Annotated[Optional[Stage], typer.Argument()] = None) -> None:
    """Print the parameters of a stage, or of all: name, type, default, help, allowed values."""
    from titlesmith.settings import declared

    for name in [stage] if stage else STAGES:
        for p in declared(name).values():
            print(f"{name}.{p.name:<16} {p.annotation:<12} {p.default!r}\n    {p.help}")


def update(run: RunName) -> None:
    """Harvest the papers that arXiv has added, changed or deleted since a run's harvest."""
    from titlesmith.daily import update

    updated = Run(run)
    for kind, count in (update(updated) | {"papers": updated.record("harvest")["counts"]["kept"]}).items():
        print(f"{kind:<10} {count:>10,}")
    if updated.record("corpus") and not updated.is_current("corpus"):
        print(f"later stages are out of date. {updated.rerun_command}")


def daily(
    experiment: ExperimentName,
    name: NewName = None,
    p: Overrides = None,
    retrain: Annotated[int, typer.Option(min=0, help="Train again when this many papers are new; 0: never.")] = 1000,
) -> None:
    """Generate titles for the papers that arXiv announced since the last time, for the book's page of today."""
    from titlesmith import experiment as experiments
    from titlesmith.daily import daily

    rows = daily(experiments.Experiment.read(experiments.find(experiment), tuple(p or ())), name, retrain)
    last = max((row["day"] for row in rows), default="")
    print(f"{last or 'no day yet'}: {sum(row['day'] == last for row in rows):,} new papers")
