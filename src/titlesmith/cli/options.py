"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from titlesmith.runs import STAGES

Stage = Literal[STAGES]
ANY = f"{', '.join(STAGES[:-1])} or {STAGES[-1]}"
ExperimentName = Annotated[str, typer.Argument(help="A YAML file, or the name of one below experiments/.")]
RunName = Annotated[str, typer.Argument(help="A run's name.")]
NewName = Annotated[Optional[str], typer.Option(help="The run's name. Default: the experiment's.")]
Until = Annotated[Stage, typer.Option(metavar="STAGE", help=f"The last stage to run: {ANY}.")]
Overrides = Annotated[Optional[list[str]], typer.Option("-p", metavar="SECTION.KEY=VALUE", help="Set a parameter.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Adapter = Annotated[Optional[Path], typer.Option(help="Use this adapter, a folder of peft.")]
Base = Annotated[str, typer.Option(metavar="hf:NAME", help="The adapter's model. Default: the one that it names.")]
Quantize = Annotated[Literal["none", "8bit", "4bit"], typer.Option(help="Bits of the adapter's model; 4bit on a GPU.")]
TemplateName = Annotated[
    Optional[str], typer.Option("--template", help="The adapter's template. Default: chatgentitle.")
]
