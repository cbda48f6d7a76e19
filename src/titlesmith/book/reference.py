"""The reference: parameters as the notebooks declare them, commands as the command line has them."""

from typer.cli import get_docs_for_click
from typer.core import TyperGroup

from titlesmith import tables
from titlesmith.experiment import SHARED
from titlesmith.markup import Markup, render
from titlesmith.runs import STAGES, notebook
from titlesmith.settings import declared


def render_parameters() -> Markup:
    """A section with a table for each stage."""
    stages = []
    for stage in STAGES:
        rows = [
            {
                "parameter": p.name if p.name in SHARED else f"{stage}.{p.name}",
                "type": p.annotation,
                "default": repr(p.default),
                "meaning": p.help,
            }
            for p in declared(stage).values()
        ]
        stages.append((stage, notebook(stage).name, tables.html(rows)))
    return render("parameters.md.j2", stages=stages)


def render_commands(group: TyperGroup) -> str:
    """A section for each command of a command line."""
    name = group.name or "titlesmith"
    commands = group.commands.values()
    return "".join(
        get_docs_for_click(obj=command, ctx=command.context_class(command), indent=1, call_prefix=name)
        for command in commands
    )
