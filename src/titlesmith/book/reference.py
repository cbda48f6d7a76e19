"""The reference: parameters as the notebooks declare them, commands as the command line has them."""

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


def render_commands(group: TyperGroup) -> Markup:
    """A section for each command of a command line."""
    return render("commands.md.j2", commands=_describe_commands(group, group.name or "titlesmith"))


def _describe_commands(group: TyperGroup, name: str) -> list[dict]:
    """What the page says of the commands of a group, and of the groups in it; ``name`` is that of the group."""
    sections = []
    for command in group.commands.values():
        full_name = f"{name} {command.name}"
        usage = " ".join(command.collect_usage_pieces(command.context_class(command, info_name=full_name)))
        table = tables.html(list(map(_describe_parameter, command.params))) if command.params else ""
        sections.append({"name": full_name, "help": command.help, "usage": f"{full_name} {usage}", "table": table})
        if hasattr(command, "commands"):
            sections += _describe_commands(command, full_name)
    return sections


def _describe_parameter(parameter: object) -> dict[str, str]:
    """An argument or option as a row of a table."""
    name = ", ".join(parameter.opts + parameter.secondary_opts)
    option = parameter.param_type_name == "option"
    several = "Can be repeated." if parameter.multiple else ""
    return {
        "argument": " ".join(filter(None, (name, parameter.metavar))) if option else parameter.name.upper(),
        "default": "" if parameter.default in (None, False) else str(parameter.default),
        "meaning": " ".join(filter(None, (parameter.help, several))),
    }
