"""Commands for setting up: a new project, and what this machine can do."""

from pathlib import Path
from typing import Annotated

import typer


def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Make a project in a new folder: experiments, notebooks, pages of the book, and the package that made it."""
    from titlesmith.package import init

    print(f"made                   {', '.join(init(folder))}")
    print(f"next                   cd {folder} && titlesmith run sample-small && titlesmith book")


def doctor() -> None:
    """Print what this machine has, try a training step on its devices, and say what will not work."""
    from titlesmith.doctor import examine

    lines, problems = examine()
    for name, value in lines:
        print(f"{name:<22} {value}")
    for problem in problems:
        print(f"will not work          {problem}")
    if not problems:
        print("everything works       see titlesmith --help")
