"""The reference: parameters as the notebooks declare them, commands as the command line has them."""

import typer

from titlesmith import tables
from titlesmith.experiment import SHARED
from titlesmith.runs import STAGES, notebook
from titlesmith.settings import declared

NAME = "titlesmith"


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
    from titlesmith.terminal import command

    group = typer.main.get_command(app)
    group.commands["generate"] = typer.main.get_command(command())  # whose options notebook 04 has
    group.commands["generate"].name = "generate"
    return "\n".join(_command(group, NAME))


def _command(command: object, name: str) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(command.context_class(command, info_name=name)))
    parts = [] if name == NAME else [f"## {name}\n", f"{command.help}\n", f"```text\n{name} {usage}\n```\n"]
    rows = [
        {
            "argument": " ".join(filter(None, (", ".join(p.opts + p.secondary_opts), p.metavar)))
            if p.param_type_name == "option"
            else p.name.upper(),
            "default": "" if p.default in (None, False) else str(p.default),
            "meaning": " ".join(filter(None, (p.help, "May be given several times." if p.multiple else ""))),
        }
        for p in command.params
        if name != NAME
    ]
    parts += [tables.html(rows) + "\n"] if rows else []
    for child in getattr(command, "commands", {}).values():
        parts += _command(child, f"{name} {child.name}")
    return parts
