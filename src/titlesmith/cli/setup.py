"""Commands for setting up: a new project, what this machine can do, models and abstracts to download."""

from pathlib import Path
from typing import Annotated, Optional

import typer

from titlesmith.runs import list_files

model_commands = typer.Typer(help="List the models, or download one.", invoke_without_command=True)


def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Make a project in a new folder: experiments, notebooks, pages of the book, and the package that made it."""
    from titlesmith.package import init

    print(f"made                   {', '.join(init(folder))}")
    print(f"next                   cd {folder} && titlesmith run sample-small && titlesmith book")


def doctor() -> None:
    """Print what this machine has, try a training step on its devices, and say what will not work."""
    from titlesmith.doctor import examine

    problems = examine()
    for problem in problems:
        print(f"will not work          {problem}")
    if not problems:
        print("everything works       see titlesmith --help")


def abstracts(
    file: Annotated[Optional[Path], typer.Argument(help="A CSV file with title and arxiv_id.")] = None,
) -> None:
    """Fetch from arXiv the abstracts of a file's papers, or the three for which the book compares titles."""
    from titlesmith.evaluate import abstracts

    print(f"fetched                {abstracts.fetch_of(file) if file else abstracts.fetch()}")


@model_commands.callback()
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

    if name in (*models.RANDOM, "base"):
        return "yes, in the package" if name == "base" else "initialized when it is trained"
    missing_files = models.hub.missing_files if models.hub.is_hub(name) else models.missing_files
    if missing := missing_files(models.model_path(name)):
        return f"no: titlesmith models get {name}" if name in models.PUBLISHED else f"lacks {', '.join(missing)}"
    return "yes"


@model_commands.command()
def get(name: Annotated[str, typer.Argument(help="smollm2, 82M, 124M, 355M, 774M, 1558M or hf:NAME.")]) -> None:
    """Download a model, or check the files of one that is here; an interrupted download resumes."""
    from titlesmith import models

    print(f"{name} is complete: {models.fetch(name)}")
