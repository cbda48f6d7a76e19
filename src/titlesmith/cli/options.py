"""Arguments and options that several commands have."""

from typing import Annotated, Literal, Optional

import typer

from titlesmith.runs import STAGES

Stage = Literal[STAGES]
ANY = f"{', '.join(STAGES[:-1])} or {STAGES[-1]}"
RunName = Annotated[str, typer.Argument(help="A run's name.")]
Until = Annotated[Stage, typer.Option(metavar="STAGE", help=f"The last stage to run: {ANY}.")]
Overrides = Annotated[Optional[list[str]], typer.Option("-p", metavar="SECTION.KEY=VALUE", help="Set a parameter.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
