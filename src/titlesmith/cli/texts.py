"""Commands that generate or fetch texts."""

from pathlib import Path
from typing import Annotated, Optional

import typer

# The options are in notebook 04, which is read only when the command runs
ANY_OPTIONS = {"add_help_option": False, "context_settings": {"ignore_unknown_options": True, "allow_extra_args": True}}


def generate(context: typer.Context) -> None:
    """Generate texts with a run's model, or with an adapter, from any number of prefixes, and print them."""
    from titlesmith.terminal import build_command

    build_command()(context.args, prog_name="titlesmith generate")


def abstracts(
    file: Annotated[Optional[Path], typer.Argument(help="A CSV file with title and arxiv_id.")] = None,
) -> None:
    """Fetch from arXiv the abstracts of a file's papers, or the three for which the book compares titles."""
    from titlesmith.evaluate import abstracts

    print(f"fetched                {abstracts.fetch_of(file) if file else abstracts.fetch()}")
