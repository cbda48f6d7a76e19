"""The command line."""

import codecs
import errno
import io
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
from typer.core import TyperGroup

from titlesmith.errors import RequestError, TitlesmithError, shorten
from titlesmith.runs import STAGES, Run, list_files, list_runs, open_run, replacing

app = typer.Typer(
    help="Fine-tune a language model on scientific papers and publish the results as a book.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# What a terminal's encoding lacks is escaped as in JSON, so that lines of --json stay JSON
codecs.register_error("titlesmith.escape", lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))
Stage = Literal[STAGES]
ANY = f"{', '.join(STAGES[:-1])} or {STAGES[-1]}"
RunName = Annotated[str, typer.Argument(help="A run's name.")]
Until = Annotated[Stage, typer.Option(metavar="STAGE", help=f"The last stage to run: {ANY}.")]
Overrides = Annotated[Optional[list[str]], typer.Option("-p", metavar="SECTION.KEY=VALUE", help="Set a parameter.")]


@app.command()
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
    from titlesmith import experiment as experiments
    from titlesmith.pipeline import chain

    overrides = [*(p or ()), *([] if processes is None else [f"finetune.processes={processes}"])]
    chosen = experiments.Experiment.read(experiments.find(experiment), tuple(overrides))
    done = chain(chosen, name, STAGES[0] if force else start, until)
    if done.complete:
        show(done.name)
    else:
        print(f"run {done.name}: done until {until}, in {done.path}")


@app.command("list")
def list_() -> None:
    """List all runs, newest first."""
    everything = list_runs()
    if not everything:
        print("no runs yet: titlesmith run sample-titles makes one")
    for run in everything:
        finished = [s for s in STAGES if run.record(s).get("status") == "done"]
        state = "complete" if run.complete else f"until {finished[-1]}" if finished else "nothing done"
        reason = run.record("finetune").get("stop_reason", "")
        print(f"{run.name:<30} {state:<18} {run.source_label if finished else '':<24} {reason}")


@app.command()
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


@app.command()
def params(stage: Annotated[Optional[Stage], typer.Argument()] = None) -> None:
    """Print the parameters of a stage, or of all: name, type, default, help, allowed values."""
    from titlesmith.settings import declared

    for name in [stage] if stage else STAGES:
        for p in declared(name).values():
            print(f"{name}.{p.name:<16} {p.annotation:<12} {p.default!r}\n    {p.help}")


models_app = typer.Typer(help="List the models, or download one.", invoke_without_command=True)
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the models: parameters, size on disk, memory to train, whether they are on this machine."""
    if context.invoked_subcommand:
        return
    from titlesmith import models
    from titlesmith.settings import declared, defaults

    settings, vocabulary = defaults("finetune") | {"vocabulary": "full"}, declared("corpus")["vocabulary"].default
    print(f"{'model':<16} {'parameters':>13} {'on disk':>10} {'to train':>9}  here")
    for name in models.names():
        hyperparameters = models.hyperparameters(name, vocabulary)
        count = models.num_parameters(hyperparameters)
        memory = models.training_memory(hyperparameters, settings | {"model": name}, True)
        size = sum(file.stat().st_size for file in list_files(models.model_path(name))) or 4 * count
        print(f"{name:<16} {count:>13,} {size / 1e6:>7,.0f} MB {memory / 2**30:>5.1f} GiB  {_describe_location(name)}")
    print(
        f"\nTo train: estimated peak memory with {settings['batch_size']} rows of {settings['block_size']} tokens a "
        f"step in bfloat16; {models.available_memory() / 2**30:.1f} GiB are free. scratch: with its largest vocabulary."
    )


def _describe_location(name: str) -> str:
    from titlesmith import models

    locations = dict.fromkeys(models.RANDOM, "initialized when it is trained") | {"base": "yes, in the package"}
    if name in locations:
        return locations[name]
    missing_files = models.hub.missing_files if models.hub.is_hub(name) else models.missing_files
    if missing := missing_files(models.model_path(name)):
        return f"no: titlesmith models get {name}" if name in models.PUBLISHED else f"lacks {', '.join(missing)}"
    return "yes"


@models_app.command()
def get(name: Annotated[str, typer.Argument(help="smollm2, 82M, 124M, 355M, 774M, 1558M or hf:NAME.")]) -> None:
    """Download a model, or check the files of one that is here; an interrupted download resumes."""
    from titlesmith import models

    print(f"{name} is complete: {models.fetch(name)}")


@app.command()
def update(run: RunName) -> None:
    """Harvest the papers that arXiv has added, changed or deleted since a run's harvest."""
    from titlesmith.update import update

    updated = Run(run)
    for kind, count in (update(updated) | {"papers": updated.record("harvest")["counts"]["kept"]}).items():
        print(f"{kind:<10} {count:>10,}")
    if updated.record("corpus") and not updated.is_current("corpus"):
        print(f"later stages are out of date. {updated.rerun_command}")


def describe_commands() -> TyperGroup:
    """All commands with their options, for the reference in the book."""
    from titlesmith.terminal import build_command

    group = typer.main.get_command(app)
    group.commands["generate"] = typer.main.get_command(build_command())  # its options are in notebook 04
    return group


@app.command()
def book(
    publish: Annotated[
        Optional[str],
        typer.Option(metavar="DIR|gh-pages", help="Also publish it, with the runs published there before."),
    ] = None,
    zip: Annotated[bool, typer.Option("--zip", help="Also write _build/book.zip, which needs no server.")] = False,
) -> None:
    """Build the book from all complete runs."""
    from titlesmith.book import build
    from titlesmith.book import publish as publishing

    built = publishing.publish(publish, describe_commands()) if publish else build.build(describe_commands())
    names = ", ".join([*(r.name for r in built.shown[:10]), *["..."] * (len(built.shown) > 10)])
    print(f"\nbook                   {len(built.shown)} run{'s' * (len(built.shown) != 1)}{names and ': '}{names}")
    for reason in built.omitted.values():
        print(f"omitted                {reason}")
    if zip:
        print(f"packed                 {build.pack(built)}")
    print(f"published              {publish}" if publish else f"open                   {built.page}")


@app.command()
def compare(
    run: Annotated[list[str], typer.Argument(help="Names of at least two runs.")],
    count: Annotated[int, typer.Option("-n", min=0, help="Number of texts of each run.")] = 10,
    html: Annotated[Optional[Path], typer.Option(help="Write a page to this file instead.")] = None,
) -> None:
    """Compare runs: the parameters that differ, the metrics, the texts."""
    from rich.console import Console

    from titlesmith.book import compare as comparing

    if html and not html.resolve().parent.is_dir():
        raise RequestError(f"--html {html}: the folder {html.parent} does not exist; create it, or choose another")
    comparison = comparing.compare(comparing.open_reports(run), count)
    if html:
        with replacing(html.resolve()) as temporary:
            temporary.write_text(comparison.html(), "utf-8")
        print(html)
    else:
        comparison.print(Console())


@app.command()
def export(
    run: RunName,
    to: Annotated[
        Literal["ctranslate2", "hf"], typer.Option(help="hf: for transformers; ctranslate2: int8, for generate.")
    ],
    out: Annotated[Optional[Path], typer.Option(help="A folder. Default: export/ in the run.")] = None,
) -> None:
    """Export a run's model to the format of another program."""
    from titlesmith.export import export

    print(f"exported to            {export(open_run(run), to, out)}")


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def generate(context: typer.Context) -> None:
    """Generate texts with a run's model, or with an adapter, from any number of prefixes, and print them."""
    from titlesmith.terminal import build_command  # reads its options from notebook 04

    build_command()(context.args, prog_name="titlesmith generate")


@app.command("abstracts")
def abstracts_() -> None:
    """Fetch from arXiv the three abstracts for which the book compares titles."""
    from titlesmith.evaluate import abstracts

    print(f"fetched                {abstracts.fetch()}")


@app.command()
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
) -> None:
    """Run an experiment with all combinations of parameters, on this machine or a Dask cluster."""
    from titlesmith import sweep

    plan = sweep.read(experiment, tuple(sets or ()), tuple(p or ()), repeat, name, until)
    done = sweep.run(plan, scheduler, workers, memory)
    print(f"sweep {plan.name}: {len(done['runs'])} runs done in {done['seconds']:.0f} s", sweep.record_path(plan.name))


@app.command("app")
def app_(
    run: RunName,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve a web page and an HTTP API that generate texts with a run's model, or with base, the package's."""
    from titlesmith.app import serve
    from titlesmith.generate.source import open_source

    serve(open_source(run), host, port)


def main() -> None:
    """Runs the command line; titlesmith's errors are printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack characters of texts
            stream.reconfigure(errors="titlesmith.escape")
    try:
        app()
    except TitlesmithError as error:
        _exit(error.exit_code, str(error))
    except OSError as error:
        is_name = error.errno == errno.ENAMETOOLONG  # of a file in the request
        reason = f"{shorten(str(error.filename))}: {error.strerror}" if is_name else str(error)
        reason += ". Free some space; the same command resumes" * (error.errno == errno.ENOSPC)
        _exit(RequestError.exit_code if is_name else 1, reason)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command resumes")


def _exit(code: int, reason: str) -> None:
    reason = re.sub(r"(.{1000}).{800,}(.{200})", r"\1 ... \2", reason)  # errors of libraries show values in full
    print("titlesmith: error:", reason, file=sys.stderr)
    sys.exit(code)
