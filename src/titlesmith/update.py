"""Updates: what arXiv has added, changed or deleted since a run's papers were harvested."""

import shutil
from collections.abc import Callable

from titlesmith.errors import RequestError
from titlesmith.harvest import changes
from titlesmith.pipeline import execute, source
from titlesmith.runs import LOCK_TIMEOUT, Run, hold, open_run, release


def update(run: Run, echo: Callable[[str], None] = print) -> dict[str, int]:
    """Brings a run's papers up to date.

    The changes are listed and compared first, which leaves the run as it is; then the harvest's notebook merges them,
    without asking any service. After an interruption, the same command resumes.

    Parameters
    ----------
    run
        Any run of arXiv's papers, whatever their source: what a category gained comes by OAI-PMH.
    echo
        Takes lines on what is done.

    Returns
    -------
    dict
        How many papers are ``new``, ``changed``, ``deleted`` and ``unchanged`` of those that were listed and that the
        run's filters let through. A paper that these filters now keep out counts as deleted.

    Raises
    ------
    RequestError
        There is no such run, it would be harvested anew, or its papers are of a kind that arXiv does not list.
    RunError
        The service fails; the run is as it was.
    StageError
        The merge failed; `update` or `titlesmith run` go on with it.
    """
    open_run(run.name)
    hold(run / ".chain.lock")
    try:
        hold(run / ".stage.lock", LOCK_TIMEOUT)
        release(run / ".stage.lock")
        settings = changes.check(run)
        if run.record("harvest")["fingerprint"] != run.fingerprint("harvest", settings, source("harvest")):
            raise RequestError(
                f"run {run.name} cannot be updated: its notebook, titlesmith or a file that it reads has changed since "
                "it was harvested; titlesmith run harvests it anew"
            )
        run.verify("harvest")
        if not changes.waiting(run):
            run.require("harvest")
            changes.fetch(run, settings)
        known = changes.state(run)
        echo(f"run {run.name}: changes since {known['since'] or 'the first one'}")
        if any(known["counts"][kind] for kind in ("new", "changed", "deleted")):
            execute(run, "harvest", settings)
        run.update_stage("harvest", asked=known["day"], update=known["counts"])
        shutil.rmtree(run / "update")
    finally:
        release(run / ".chain.lock")
    return known["counts"]
