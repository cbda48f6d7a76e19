"""Commands that make runs and show them."""

import json
from typing import Annotated, Optional

import typer

from titlesmith.cli.options import ANY, AsJson, Overrides, RunName, Stage, Until
from titlesmith.errors import TitlesmithError
from titlesmith.runs import STAGES, Run, is_locked, list_runs, open_run, project


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why, and run nothing.")] = False,
) -> None:
    """Run the notebooks of an experiment whose parameters, inputs or source changed, and print the results."""
    project()  # before slow imports
    from titlesmith import experiment as experiments
    from titlesmith.pipeline import chain
    from titlesmith.plan import plan

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


def list_(as_json: AsJson = False) -> None:
    """List all runs, newest first: date, model, papers, validation perplexity, state and step."""
    rows = [summarize(run) for run in list_runs()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif not rows:
        print(f"no runs yet in {project()}: titlesmith run sample-titles makes one")
    else:
        print(f"{'run':<28} {'date':<10} {'model':<16} {'papers':>9} {'perplexity':>10} {'step':>13}  state")
    for row in [] if as_json else rows:
        shown = {key: "-" if value is None else value for key, value in row.items()}
        papers = f"{row['papers']:,}" if isinstance(row["papers"], int) else "-"
        perplexity = f"{row['perplexity']:.2f}" if isinstance(row["perplexity"], float) else "-"
        step = f"{shown['step']}/{shown['steps']}" if row["step"] else "-"
        line = f"{row['name']:<28} {shown['date'][:10]:<10} {shown['model']!s:<16.16} {papers:>9} {perplexity:>10}"
        print(f"{line} {step:>13}  {row['state']}")


def summarize(run: Run) -> dict:
    """A run in one row, of values that JSON has; None for what is not known."""
    records = {stage: run.record(stage) for stage in STAGES}
    training = records["finetune"]
    settings = training.get("settings") or records["corpus"].get("settings") or {}
    perplexities = read_metrics(run).get("perplexity")
    counts = records["harvest"].get("counts")
    return {
        "name": run.name,
        "date": max((str(r.get("ended") or r.get("started") or "") for r in records.values()), default="") or None,
        "source": run.source_label if records["harvest"].get("settings") else None,
        "model": settings.get("model"),
        "papers": counts.get("kept") if isinstance(counts, dict) else None,
        "perplexity": perplexities.get("valid") if isinstance(perplexities, dict) else None,
        "state": describe_state(run),
        "step": training.get("steps") or _last_step(run),
        "steps": settings.get("steps"),
    }


def read_metrics(run: Run) -> dict:
    """The metrics of a run; empty if they are missing or damaged."""
    try:
        metrics = run.metrics if run.is_current("evaluate") else {}
    except TitlesmithError:
        return {}
    return metrics if isinstance(metrics, dict) else {}


def describe_state(run: Run) -> str:
    """How far a run has come, in words."""
    if run.complete:
        return "complete"
    for stage in reversed(STAGES):
        record = run.record(stage)
        if record.get("status") == "running":
            is_running = any(is_locked(run / name) for name in (".stage.lock", ".chain.lock"))
            return f"{stage} is running" if is_running else record.get("stopped") or f"{stage} was interrupted"
    finished = [stage for stage in STAGES if run.record(stage).get("status") == "done"]
    return f"done until {finished[-1]}" if finished else "nothing done"


def _last_step(run: Run) -> int | None:
    """The last step in a run's history."""
    path = run / "history.csv"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1000))
        cells = [line.partition(b",")[0] for line in file.read().split(b"\n")[-3:-1]]
    return next((int(cell) for cell in reversed(cells) if cell.isdigit()), None)


def show(run: RunName, as_json: AsJson = False) -> None:
    """Print a run's papers, why its training stopped, its perplexity and ten texts."""
    opened = open_run(run)
    if as_json:
        stages = {stage: opened.record(stage) for stage in STAGES}
        texts = opened.texts if opened.is_current("generate") else []
        row = summarize(opened) | {"stages": stages, "metrics": read_metrics(opened), "texts": texts}
        print(json.dumps(row, indent=2, ensure_ascii=False))
        return
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
        print("texts", *(f"  {' '.join(str(row.get('text')).split())}" for row in opened.texts[:10]), sep="\n")
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
