"""Commands that make runs and show them."""

from typing import Annotated, Optional

import typer

from titlesmith.cli.options import ANY, Overrides, RunName, Stage, Until
from titlesmith.runs import STAGES, Run, list_runs, open_run, project


def run(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or the name of one below experiments/.")],
    name: Annotated[Optional[str], typer.Option(help="The run's name. Default: the experiment's.")] = None,
    p: Overrides = None,
    start: Annotated[
        Optional[Stage], typer.Option("--from", metavar="STAGE", help=f"Run again from this stage on: {ANY}.")
    ] = None,
    until: Until = STAGES[-1],
    force: Annotated[bool, typer.Option("--force", help="Run all stages again.")] = False,
    processes: Annotated[Optional[int], typer.Option(help="Training processes: -p finetune.processes=N.")] = None,
) -> None:
    """Run the notebooks of an experiment whose parameters, inputs or source changed, and print the results."""
    project()  # before slow imports
    from titlesmith import experiment as experiments
    from titlesmith.pipeline import chain

    overrides = [*(p or ()), *([] if processes is None else [f"finetune.processes={processes}"])]
    chosen = experiments.Experiment.read(experiments.find(experiment), tuple(overrides))
    done = chain(chosen, name, STAGES[0] if force else start, until)
    if done.complete:
        show(done.name)
    else:
        print(f"run {done.name}: done until {until}, in {done.path}")


def list_() -> None:
    """List all runs, newest first."""
    everything = list_runs()
    if not everything:
        print(f"no runs yet in {project()}: titlesmith run sample-titles makes one")
    for run in everything:
        finished = [s for s in STAGES if run.record(s).get("status") == "done"]
        state = "complete" if run.complete else f"until {finished[-1]}" if finished else "nothing done"
        reason = run.record("finetune").get("stop_reason", "")
        print(f"{run.name:<30} {state:<18} {run.source_label if finished else '':<24} {reason}")


def show(run: RunName) -> None:
    """Print a run's papers, why its training stopped, its perplexity and ten texts."""
    opened = open_run(run)
    opened.require("harvest")
    training, is_current = opened.record("finetune"), opened.is_current
    print(f"\nrun                    {opened.name} ({opened.source_label})")
    if is_current("finetune"):
        steps = training.get("steps")
        print(f"training stopped       {training.get('stop_reason')}")
        print(f"steps                  {steps}; the weights of step {training.get('kept_step', steps)} were kept")
    if is_current("evaluate"):
        perplexities = opened.metrics.get("perplexity")
        perplexity = perplexities.get("valid") if isinstance(perplexities, dict) else None
        print(f"validation perplexity  {'unknown' if perplexity is None else format(perplexity, '.2f')}")
    if is_current("generate"):
        print("texts", *(f"  {row.get('text')}" for row in opened.texts[:10]), sep="\n")
    if missing := [stage for stage in STAGES if not is_current(stage)]:
        print(f"not done yet           {', '.join(missing)}; run {opened.rerun_command}")


def params(stage: Annotated[Optional[Stage], typer.Argument()] = None) -> None:
    """Print the parameters of a stage, or of all: name, type, default, help, allowed values."""
    from titlesmith.settings import declared

    for name in [stage] if stage else STAGES:
        for p in declared(name).values():
            print(f"{name}.{p.name:<16} {p.annotation:<12} {p.default!r}\n    {p.help}")


def update(run: RunName) -> None:
    """Harvest the papers that arXiv has added, changed or deleted since a run's harvest."""
    from titlesmith.update import update

    updated = Run(run)
    for kind, count in (update(updated) | {"papers": updated.record("harvest")["counts"]["kept"]}).items():
        print(f"{kind:<10} {count:>10,}")
    if updated.record("corpus") and not updated.is_current("corpus"):
        print(f"later stages are out of date. {updated.rerun_command}")


def daily(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or the name of one below experiments/.")],
    name: Annotated[Optional[str], typer.Option(help="The run's name. Default: the experiment's.")] = None,
    p: Overrides = None,
    retrain: Annotated[int, typer.Option(min=0, help="Train again when this many papers are new; 0: never.")] = 1000,
) -> None:
    """Generate titles for the papers that arXiv announced since the last time, for the book's page of today."""
    from titlesmith import experiment as experiments
    from titlesmith.daily import daily

    rows = daily(experiments.Experiment.read(experiments.find(experiment), tuple(p or ())), name, retrain)
    last = max((row["day"] for row in rows), default="")
    print(f"{last or 'no day yet'}: {sum(row['day'] == last for row in rows):,} new papers")
