"""The command line."""

import sys
from typing import Annotated, Literal, Optional

import typer

from titlesmith.errors import RequestError, TitlesmithError
from titlesmith.run import STAGES, Run, files, runs

app = typer.Typer(
    help="Fine-tune a language model on scientific papers and publish what happened as a book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Stage = Literal[STAGES]


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="A YAML file, or the name of one below experiments/.")],
    name: Annotated[Optional[str], typer.Option(help="Of the run directory; the experiment's by default.")] = None,
    p: Annotated[Optional[list[str]], typer.Option("-p", metavar="SECTION.KEY=VALUE", help="Sets a parameter.")] = None,
    start: Annotated[Optional[Stage], typer.Option("--from", help="Run this stage and those behind it again.")] = None,
    until: Annotated[Stage, typer.Option(help="The last stage to run.")] = STAGES[-1],
    force: Annotated[bool, typer.Option("--force", help="Run all stages again.")] = False,
    processes: Annotated[Optional[int], typer.Option(help="Train in so many: -p finetune.processes=N.")] = None,
) -> None:
    """Run an experiment's notebooks, those whose parameters, inputs or source changed, and print what came out."""
    from titlesmith import experiment as experiments
    from titlesmith import launcher
    from titlesmith.pipeline import chain

    if launcher.rank() > 0:
        from titlesmith.engines import worker

        return worker.serve()
    given = [*(p or ()), *([] if processes is None else [f"finetune.processes={processes}"]), *launcher.overrides()]
    with launcher.leading():
        chosen = experiments.Experiment.read(experiments.find(experiment), tuple(given))
        done = chain(chosen, name, STAGES[0] if force else start, until)
    if done.complete:
        show(done.name)
    else:
        print(f"run {done.name}: done until {until}, in {done.path}")


@app.command("list")
def list_() -> None:
    """List all runs, newest first."""
    everything = runs()
    if not everything:
        print("no runs yet: titlesmith run experiments/sample-titles.yml makes one")
    for found in everything:
        finished = [s for s in STAGES if found.record(s).get("status") == "done"]
        state = "complete" if found.complete else f"until {finished[-1]}" if finished else "nothing done"
        reason = found.record("finetune").get("stop_reason", "")
        print(f"{found.name:<30} {state:<18} {found.papers if finished else '':<24} {reason}")


@app.command()
def show(run: Annotated[str, typer.Argument(help="A run's name.")]) -> None:
    """Print what a run was, why its training stopped, its perplexity and ten texts."""
    found = Run(run)
    if not found.info:
        raise RequestError(f"there is no run {run}; there are {', '.join(r.name for r in runs()) or 'none'}")
    metrics, training = found.metrics, found.record("finetune")
    print(f"\nrun                    {found.name} ({found.papers})")
    print(f"training stopped       {training['stop_reason']}")
    kept = training.get("kept_step", training["steps"])
    print(f"steps                  {training['steps']}; the weights of step {kept} were kept")
    print(f"validation perplexity  {metrics['perplexity']['valid']:.2f}")
    print("texts")
    for row in found.texts[:10]:
        print(f"  {row['text']}")


@app.command()
def params(stage: Annotated[Optional[Stage], typer.Argument()] = None) -> None:
    """Print the parameters of a stage, or of all: name, type, default, help."""
    from titlesmith.experiment import declared

    for name in [stage] if stage else STAGES:
        for p in declared(name).values():
            print(f"{name}.{p.name:<16} {p.annotation:<12} {p.default!r}\n    {p.help}")


models_app = typer.Typer(help="List the models, or download one.", invoke_without_command=True)
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the models: parameters, size on disk, memory to train, whether they are here."""
    if context.invoked_subcommand:
        return
    from titlesmith import models
    from titlesmith.experiment import declared

    rows, block = (declared("finetune")[key].default for key in ("batch_size", "block_size"))
    print(f"{'model':<16} {'parameters':>13} {'on disk':>10} {'to train':>9}  here")
    for name in models.names():
        made_of = models.hyperparameters(name, declared("corpus")["vocabulary"].default)
        count, needs = models.parameters(made_of), models.memory(made_of, rows, block, bf16=True)
        size = sum(file.stat().st_size for file in files(models.place(name))) or 4 * count
        print(f"{name:<16} {count:>13,} {size / 1e6:>7,.0f} MB {needs / 2**30:>5.1f} GiB  {_here(name)}")
    print(
        f"\nTo train: peak of memory with {rows} rows of {block} tokens a step in bfloat16, about; "
        f"{models.available() / 2**30:.1f} GiB are free here. scratch: with as many tokens as it may learn."
    )


def _here(name: str) -> str:
    from titlesmith import models

    if name == "scratch":
        return "made on the spot"
    if missing := models.lacking(models.place(name)):
        return f"no: titlesmith models get {name}" if name in models.GPT2 else f"lacks {', '.join(missing)}"
    return "yes"


@models_app.command()
def get(name: Annotated[str, typer.Argument(help="124M, 355M, 774M or 1558M.")]) -> None:
    """Download a model of OpenAI's, from where a download broke off, or check the one that is here."""
    from titlesmith.models import download

    print(f"{name} is here, and whole: {download.get(name)}")


@app.command()
def update(run: Annotated[str, typer.Argument(help="A run's name.")]) -> None:
    """Harvest what arXiv has added, changed or deleted since a run's papers were harvested."""
    from titlesmith.update import update

    found = Run(run)
    for kind, count in (update(found) | {"papers": found.record("harvest")["papers"]["kept"]}).items():
        print(f"{kind:<10} {count:>10,}")
    if found.record("corpus") and not found.is_current("corpus"):
        print("the stages behind the harvest are of the papers before: the same titlesmith run as then runs them again")


@app.command()
def book() -> None:
    """Build the book from all complete runs."""
    from titlesmith.book import build

    page, shown = build()
    left_out = [r.name for r in runs() if r.name not in {s.name for s in shown}]
    print(f"\nbook                   {len(shown)} run{'s' * (len(shown) != 1)}: {', '.join(r.name for r in shown)}")
    if left_out:
        print(f"left out (unfinished)  {', '.join(left_out)}")
    print(f"open                   {page}")


def main() -> None:
    """Runs the command line; errors of titlesmith are printed without a traceback."""
    try:
        app()
    except TitlesmithError as error:
        kind = "refused" if isinstance(error, RequestError) else "failed"
        print(f"titlesmith: {kind}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(f"titlesmith: failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ntitlesmith: interrupted; the same command goes on from what was written", file=sys.stderr)
        sys.exit(130)
