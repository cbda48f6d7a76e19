"""The commands ``titlesmith models`` and ``titlesmith models get``."""

from typing import Annotated

import typer

from titlesmith.runs import list_files

app = typer.Typer(help="List the models, or download one.", invoke_without_command=True)


@app.callback()
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


@app.command()
def get(name: Annotated[str, typer.Argument(help="smollm2, 82M, 124M, 355M, 774M, 1558M or hf:NAME.")]) -> None:
    """Download a model, or check the files of one that is here; an interrupted download resumes."""
    from titlesmith import models

    print(f"{name} is complete: {models.fetch(name)}")
