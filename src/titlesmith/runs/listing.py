"""All runs of the project, and the run with a name."""

import sys

from titlesmith.errors import RequestError, TitlesmithError
from titlesmith.runs.paths import STAGES, root
from titlesmith.runs.record import Run


def list_runs() -> list[Run]:
    """Every run directory, the latest first; damaged ones are named on standard error."""
    ended: dict[Run, str] = {}
    for path in sorted((root() / "runs").glob("*/run.json")):
        try:
            run = Run(path.parent.name)
            ended[run] = max((run.record(stage).get("ended", "") for stage in STAGES), default="")
        except TitlesmithError as error:
            print(f"skipped: {error}", file=sys.stderr)
    return sorted(ended, key=ended.get, reverse=True)


def open_run(name: str) -> Run:
    """The run with this name (RequestError if it does not exist)."""
    run = Run(name)
    if not run.info:
        raise RequestError(f"there is no run {name}; there are {', '.join(r.name for r in list_runs()) or 'none'}")
    return run
