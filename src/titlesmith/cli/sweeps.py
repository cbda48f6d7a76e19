"""The command ``titlesmith sweep``."""

from typing import Annotated, Optional

import typer

from titlesmith.cli.options import Overrides, Until
from titlesmith.runs import STAGES


def sweep(
    experiment: Annotated[str, typer.Argument(help="Experiment or sweep file: a path, or a name in experiments/.")],
    sets: Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="SECTION.KEY=V1,V2", help="Vary a parameter; of several, all combinations."),
    ] = None,
    p: Overrides = None,
    repeat: Annotated[Optional[int], typer.Option(help="Runs of each combination, with different seeds.")] = None,
    name: Annotated[Optional[str], typer.Option(help="The sweep's name, the beginning of its runs' names.")] = None,
    until: Until = STAGES[-1],
    workers: Annotated[Optional[int], typer.Option(help="Parallel runs. Default: as many as fit.")] = None,
    memory: Annotated[Optional[str], typer.Option(help="Memory of all parallel runs, such as 8GB.")] = None,
    scheduler: Annotated[Optional[str], typer.Option(help="A Dask scheduler, such as tls://host:8786.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and what is missing; run nothing.")
    ] = False,
) -> None:
    """Run an experiment with all combinations of parameters, on this machine or a Dask cluster."""
    from titlesmith import sweep

    remarks = [] if dry_run else None
    plan = sweep.read(experiment, tuple(sets or ()), tuple(p or ()), repeat, name, until, remarks)
    if dry_run:
        print(*plan.describe(), *(f"missing: {remark}" for remark in remarks), sep="\n")
        return
    done = sweep.run(plan, scheduler, workers, memory)
    print(f"sweep {plan.name}: {len(done['runs'])} runs done in {done['seconds']:.0f} s", sweep.record_path(plan.name))
