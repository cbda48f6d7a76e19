"""The reference: parameters as the notebooks declare them, commands as the command line has them."""

import click
import typer

from titlesmith import tables
from titlesmith.experiment import SHARED, declared
from titlesmith.run import STAGES, notebook


def parameters() -> str:
    """A table a stage."""
    parts = []
    for stage in STAGES:
        rows = [
            {"parameter": f"{stage}.{p.name}", "type": p.annotation, "default": repr(p.default), "meaning": p.help}
            | ({"parameter": p.name} if p.name in SHARED else {})
            for p in declared(stage).values()
        ]
        table = tables.html(rows) if rows else "It has none."
        parts.append(f"## {stage}\n\nThese are the parameters of `{notebook(stage).name}`.\n\n{table}\n")
    return "\n".join(parts)


def commands() -> str:
    """A section a command."""
    from titlesmith.cli import app  # which imports this package

    return "\n".join(_command(typer.main.get_command(app), "titlesmith"))


def _command(command: click.Command, name: str) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [] if name == "titlesmith" else [f"## {name}\n", f"{command.help}\n", f"```text\n{name} {usage}\n```\n"]
    rows = [
        {
            "argument": parameter.human_readable_name.upper()
            if parameter.param_type_name == "argument"
            else ", ".join(parameter.opts),
            "type": _type(parameter),
            "default": "" if parameter.default in (None, False) or parameter.required else str(parameter.default),
            "meaning": getattr(parameter, "help", "") or "",
        }
        for parameter in command.params
        if name != "titlesmith" and parameter.name != "help"
    ]
    parts += [tables.html(rows) + "\n"] if rows else []
    for child in getattr(command, "commands", {}).values():
        parts += _command(child, f"{name} {child.name}")
    return parts


def _type(parameter: click.Parameter) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    kind = parameter.metavar or getattr(parameter.type, "choices", None) or parameter.type.name
    several = parameter.multiple if hasattr(parameter, "multiple") else parameter.nargs == -1
    return (", ".join(map(str, kind)) if not isinstance(kind, str) else kind) + (", several" if several else "")
