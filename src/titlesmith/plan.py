"""What a command would run, and why: ``titlesmith run --dry-run``."""

from collections.abc import Iterator

from titlesmith.errors import shorten
from titlesmith.experiment import Experiment
from titlesmith.pipeline import source
from titlesmith.runs import EXECUTION_ONLY, STAGES, Run


def plan(experiment: Experiment, name: str | None, start: str | None, until: str) -> Iterator[str]:
    """Lines on the stages that `titlesmith.pipeline.chain` would run or skip with these arguments."""
    run, last, earlier = Run(name or experiment.name), STAGES.index(until), False
    for number, stage in enumerate(STAGES[: last + 1]):
        reasons = describe_changes(run, stage, experiment.settings[stage], source(stage))
        if start and number >= STAGES.index(start):
            reasons = ["--from or --force", *reasons]
        state = "runs: " + "; ".join(reasons) if reasons else "unchanged, skipped"
        if earlier and not reasons:
            state = "runs if an earlier result changes"
        seconds = run.record(stage).get("seconds")
        took = f" ({seconds} s last time)" if seconds is not None and (reasons or earlier) else ""
        yield f"[{number + 1}/{last + 1}] {stage}: {state}{took}"
        earlier = earlier or bool(reasons)


def describe_changes(run: Run, stage: str, settings: dict, source: str) -> list[str]:
    """Which settings and files have changed since a stage ran, in words; empty if its result is current."""
    record = run.record(stage)
    if run.is_done(stage, settings, source):
        return []
    if not record:
        return ["it has not run"]
    causes, changes = run.causes(stage, settings, source), []
    for key in settings.keys() - EXECUTION_ONLY:
        if record["settings"].get(key) != settings[key]:
            changes.append(f"{stage}.{key}: {shorten(record['settings'].get(key))} -> {shorten(settings[key])}")
    for cause in ("inputs", "files"):
        old, new = record[cause], causes[cause]
        changes += [f"{key} has changed" for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    changes += ["its notebook has changed"] * (record["source"] != source)
    changes += ["titlesmith's version has changed"] * (record["version"] != causes["version"])
    changes += [f"{path.relative_to(run.path)} is damaged or missing" for path in run.damaged(stage)]
    if record["status"] != "done" and not changes:
        return [f"it was {record.get('stopped') or 'interrupted'}, and resumes"]
    return sorted(changes) or ["its executed notebook is missing"]
