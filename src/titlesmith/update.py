"""Updates: what arXiv has added, changed or deleted since a run's papers were harvested."""

from collections.abc import Callable

from titlesmith.errors import RequestError
from titlesmith.harvest import changes
from titlesmith.pipeline import execute, source
from titlesmith.runs import Run, chain_lock, open_run, remove


def update(run: Run, echo: Callable[[str], None] = print) -> dict[str, int]:
    """Updates a run's papers, from whatever source of arXiv's papers they came.

    The changes are listed and compared first, which leaves the run unchanged, also if the service fails (RunError);
    then the harvest's notebook merges them. After an interruption, the same command resumes.

    Returns the numbers of listed papers: ``new``, ``changed``, ``deleted`` or outside of the run's filters, and
    ``unchanged``. RequestError: there is no such run, its harvest is out of date, or OAI-PMH does not list its papers.
    """
    open_run(run.name)
    with chain_lock(run.path):
        settings = run.record("harvest").get("settings", {})
        changes.check(settings, f"run {run.name}")
        if run.record("harvest")["fingerprint"] != run.fingerprint("harvest", settings, source("harvest")):
            raise RequestError(
                f"run {run.name} cannot be updated: its notebook, titlesmith or a file that it reads has changed since "
                "it was harvested; titlesmith run harvests it again"
            )
        run.verify("harvest")
        if run.is_current("harvest") or not changes.waiting(run):  # else a merge was interrupted
            run.require("harvest")
            changes.fetch(run, settings)
        known = changes.state(run)
        echo(f"run {run.name}: changes since {known['since'] or 'the first one'}")
        if any(known["counts"][kind] for kind in ("new", "changed", "deleted")):
            execute(run, "harvest", settings)
        run.update_stage("harvest", requested=known["day"], update=known["counts"])
        remove(run / "update")
    return known["counts"]
