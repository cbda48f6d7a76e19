"""Why a stage has to run."""

from titlesmith.errors import shorten
from titlesmith.runs.record import EXECUTION_ONLY, Run

SENTENCES = {"source": "its notebook has changed", "version": "titlesmith's version has changed"}


def describe_changes(run: Run, stage: str, settings: dict, source: str) -> list[str]:
    """Which settings and files have changed since a stage ran, in words; empty if its result is current."""
    record, found = run.record(stage), []
    if run.is_done(stage, settings, source):
        return []
    if not record:
        return ["it has not run"]
    for cause, new in run.causes(stage, settings, source).items():
        old = record.get(cause, new)
        if not isinstance(new, dict):
            found += [SENTENCES[cause]] * (old != new)
        elif isinstance(old, dict):
            keys = sorted(key for key in new.keys() | old.keys() if old.get(key) != new.get(key))
            if cause == "settings":
                keys = [key for key in keys if key not in EXECUTION_ONLY]
                found += [f"{stage}.{key}: {shorten(old.get(key))} -> {shorten(new.get(key))}" for key in keys]
            else:
                found += [f"{key} has changed" for key in keys]
    found += [f"{path.relative_to(run.path)} is damaged or missing" for path in run.damaged(stage)]
    if record.get("status") != "done" and not found:
        return [f"it was {record.get('stopped') or 'interrupted'}, and resumes"]
    if not found and "source" not in record:  # of a version that recorded the fingerprint only
        found = ["a file, its notebook or titlesmith's version has changed"]
    return found or ["its executed notebook is missing"]
