"""The plan of a sweep: a grid of runs, all checked, and the jobs that execute them, each shared stage once."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.experiment import Experiment
from titlesmith.runs import STAGES, Run, root
from titlesmith.sweep.file import CASE, SweepFile, format_value
from titlesmith.sweep.search import Search
from titlesmith.yaml_text import split_items

REPEATED = ("finetune", "generate")  # stages whose seed a repeat changes: papers and splits stay the same
MAX_RUNS = 1000
MAX_WORD = 40  # characters of a value in a run's name


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a sweep: its name, the varied ``section.key: value``, the number of the repeat, and all settings."""

    name: str
    set: dict[str, object]
    repeat: int
    experiment: Experiment


@dataclass(frozen=True, eq=False)
class Job:
    """Stages of one run, up to ``until``.

    Attributes
    ----------
    after
        The job that must be done before this one, or None.
    shared
        Stages to link from the run of ``after`` instead of executing them.
    last
        Whether this job completes the run.
    """

    point: Point
    until: str
    after: "Job | None"
    shared: tuple[str, ...]
    last: bool


@dataclass(frozen=True)
class Plan:
    """A sweep: name, experiment file, varied keys, points, repeats of each, last stage, and what its page shows.

    ``cases``, ``reference`` and ``plot`` are those of `SweepFile`. A search has no points at first: ``make`` returns
    that of a trial, from its number and the values of its keys as texts; ``ends`` are points at the ends of the ranges.
    """

    name: str
    path: Path
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    repeat: int = 1
    until: str = STAGES[-1]
    cases: dict[str, dict[str, str]] = field(default_factory=dict)
    reference: list[dict] = field(default_factory=list)
    plot: list[list[str]] = field(default_factory=list)
    search: Search | None = None
    make: Callable[[int, dict[str, str]], Point] | None = None
    ends: tuple[Point, ...] = ()

    @property
    def total(self) -> int:
        """The number of runs."""
        return self.search.trials if self.search else len(self.points)

    def jobs(self) -> list[Job]:
        """All jobs, each after the one that it needs.

        Runs whose settings agree up to a stage share its files: the first of them executes it, the others link them.
        """
        # For each run, the run that it shares stages with, and the last shared stage
        firsts: dict[tuple, str] = {}  # settings up to a stage -> the run that executes it
        shared: dict[str, tuple[str, str]] = {}
        for point in self.points:
            settings: tuple = ()
            for stage in STAGES[: STAGES.index(self.until) + 1]:
                settings += (json.dumps(point.experiment.settings[stage], sort_keys=True),)
                if (first := firsts.setdefault(settings, point.name)) != point.name:
                    shared[point.name] = first, stage
        # A run that others share with gets a job for each stage up to which they do, so that they need not wait longer
        jobs: dict[tuple[str, str], Job] = {}
        for point in self.points:
            ends = {stage for first, stage in shared.values() if first == point.name} | {self.until}
            after = jobs[shared[point.name]] if point.name in shared else None
            stages = STAGES[: STAGES.index(after.until) + 1] if after else ()
            for stage in sorted(ends, key=STAGES.index):
                jobs[point.name, stage] = after = Job(point, stage, after, stages, stage == self.until)
                stages = ()
        return list(jobs.values())

    def describe(self) -> list[str]:
        """Lines for people: each run with its values, and the run whose stages it shares."""
        shared = {job.point.name: job for job in self.jobs() if job.shared}
        lines = [f"sweep {self.name}: {len(self.points)} runs of {self.path.stem}"]
        if self.search:
            lines = [f"sweep {self.name}: {self.total} runs of {self.path.stem}, a search by {self.search.metric}"]
            lines += [f"  {key}: {json.dumps(values)}" for key, values in self.search.ranges.items()]
        for point in self.points:
            values = point.set | self.cases.get(point.set.get(CASE), {})
            shown = ", ".join(f"{key} {format_value(value)}" for key, value in values.items())
            job = shared.get(point.name)
            taken = f"; {', '.join(job.shared)} from {job.after.point.name}" if job else ""
            lines.append(f"  {point.name}: {shown or f'seed {point.repeat}'}{taken}")
        return lines


def read(
    request: str,
    sets: tuple[str, ...] = (),
    base: tuple[str, ...] = (),
    repeat: int | None = None,
    name: str | None = None,
    until: str = STAGES[-1],
    remarks: list[str] | None = None,
) -> Plan:
    """Plans a sweep and checks every run of it.

    Parameters
    ----------
    request
        A sweep file or an experiment: a path, or a name below ``experiments/``.
    sets, base
        Values to vary, ``section.key=value,value`` or ``section.key=[[a, b], [c]]``, in addition to the sweep file; and
        values of all runs, ``section.key=value``.
    repeat
        Runs of each combination, with consecutive seeds of training and sampling.
    name
        The sweep's name, the beginning of its runs' names. Default: the sweep file's, or experiment and keys.
    remarks
        A list that gets what is missing on this machine, such as a file of papers, instead of a RequestError.

    Raises
    ------
    RequestError
        A key is unknown, a value is not allowed, two runs are the same, there are more than `MAX_RUNS`, or a run of
        that name belongs to something else.
    """
    file, typed = SweepFile.read(request), dict(map(_parse, sets))
    path, base = file.path, (*file.fixed, *base)
    # The grid: the cases, and the values of each key as texts that `Parameter.parse` reads
    values = file.set | {key: list(map(format_value, items)) for key, items in typed.items()}
    for case, key in ((case, key) for case, own in file.cases.items() for key in own if key in values):
        raise RequestError(f"{request}: {key} is varied, and case {case} sets it: leave one out")
    keys = (*([CASE] if file.cases else []), *values)
    repeats = file.repeat if repeat is None else str(repeat)
    if not re.fullmatch(r"0*[1-9]\d{0,8}", repeats):
        raise RequestError(f"repeat: {shorten(repeats)} is not a number of runs: it needs an int, 1 or more")
    if not keys and not file.search and int(repeats) == 1:
        raise RequestError("nothing is varied: add --set finetune.learning_rate=1e-4,5e-5, say, or --repeat 3")
    if (count := int(repeats) * max(1, len(file.cases)) * math.prod(map(len, values.values()))) > MAX_RUNS:
        raise RequestError(f"the sweep has {count:,} runs, and at most {MAX_RUNS:,} are allowed: vary fewer values")
    if file.search and (keys or int(repeats) > 1 or until != STAGES[-1]):
        raise RequestError(
            f"{request}: search: it chooses the values and needs all stages: leave out set, cases, repeat"
        )
    # The runs
    name = name or file.name or "-".join([path.stem, *(key.split(".")[-1] for key in values)])
    points: dict[str, Point] = {}  # by settings and by name
    Experiment.read(path, base, remarks)  # so that an error without any --set is reported without one
    if file.search:
        return _plan_search(file, request, name, base, remarks)
    for case, *texts in itertools.product(file.cases or [""], *values.values()):
        labels = dict.fromkeys(file.cases.get(case, ()), f"{request}: cases: {case}: ")
        labels |= {key: "--set " if key in typed else f"{request}: set: " for key in values}
        own = file.cases.get(case, {}) | dict(zip(values, texts, strict=True))
        overrides = {key: f"{key}={text}" for key, text in own.items()}
        experiment = _read_labelled(path, base, overrides, labels, remarks)
        chosen = ({CASE: case} if case else {}) | {key: _get_setting(experiment, key) for key in values}
        for number in range(1, int(repeats) + 1):
            words = [name, *map(_format_word, chosen.values()), *([f"r{number}"] if int(repeats) > 1 else [])]
            seeds = [f"{s}.seed={experiment.settings[s]['seed'] + number - 1}" for s in REPEATED if number > 1]
            every = (*base, *overrides.values(), *seeds)
            repeated = Experiment.read(path, every, remarks) if seeds else experiment
            point = Point("-".join(words), chosen, number, repeated)
            # Two runs with the same settings, or with the same name, cannot both exist
            for identity in (json.dumps(repeated.settings, sort_keys=True), point.name):
                if (other := points.setdefault(identity, point)) is not point:
                    names = " and ".join(dict.fromkeys((other.name, point.name)))
                    raise RequestError(f"two runs of this sweep are the same, {names}: remove the repeated value")
            _check_owner(point.name, name)
    runs = tuple(dict.fromkeys(points.values()))
    return Plan(name, path, keys, runs, int(repeats), until, file.cases, file.reference, file.plot)


def _plan_search(file: SweepFile, request: str, name: str, base: tuple[str, ...], remarks: list[str] | None) -> Plan:
    """The plan of a search, after checking the ends of its ranges (RequestError)."""
    search = Search.read(file.search, request)
    labels = dict.fromkeys(search.ranges, f"{request}: search: ")

    def make(number: int, texts: dict[str, str]) -> Point:
        overrides = {key: f"{key}={text}" for key, text in texts.items()}
        experiment = _read_labelled(file.path, base, overrides, labels, remarks)
        return Point(f"{name}-t{number}", {key: _get_setting(experiment, key) for key in texts}, 1, experiment)

    for number in range(search.trials):
        _check_owner(f"{name}-t{number}", name)
    ends = tuple(itertools.starmap(make, enumerate(search.ends())))
    shown = {"reference": file.reference, "plot": file.plot}
    return Plan(name, file.path, tuple(search.ranges), (), **shown, search=search, make=make, ends=ends)


def _read_labelled(
    path: Path, base: tuple[str, ...], overrides: dict[str, str], labels: dict[str, str], remarks: list[str] | None
) -> Experiment:
    """The experiment with the overrides of one run.

    An error names the override that causes it alone, or else all of them; ``labels`` say where a key's values are from.
    """
    try:
        return Experiment.read(path, (*base, *overrides.values()), remarks)
    except RequestError as error:
        message = str(error)
    for key, override in overrides.items():
        try:
            Experiment.read(path, (*base, override), remarks)
        except RequestError as error:
            if str(error) == message:
                overrides = {key: override}
                break
    for override in overrides.values():
        message = message.removeprefix(f"-p {shorten(override)}: ")
    raise RequestError(f"{' '.join(labels[key] + shorten(text)[1:-1] for key, text in overrides.items())}: {message}")


def _check_owner(name: str, sweep: str) -> None:
    """Checks that a run of this name does not belong to another sweep, or to none (RequestError)."""
    path = Run(name) / "run.json"
    try:
        owner = json.loads(path.read_text("utf-8")).get("sweep", {}).get("name")
    except (OSError, ValueError, AttributeError):  # missing, or damaged, which the run itself will report
        return
    if owner != sweep:
        raise RequestError(
            f"{path.parent} is a run of {f'another sweep, {owner}' if owner else 'no sweep'}, and would be "
            "overwritten: choose another name with --name"
        )


def _parse(text: str) -> tuple[str, list]:
    """Key and values of a ``--set``."""
    key, equals, values = text.partition("=")
    if not equals:
        raise RequestError(
            f"--set {shorten(text)}: it needs the form section.key=value,value, such as finetune.batch_size=1,8"
        )
    try:
        return key, split_items(values) or [""]
    except ValueError as error:
        raise RequestError(f"--set {shorten(text)}: {error}") from None


def _get_setting(experiment: Experiment, key: str) -> object:
    section, dot, name = key.partition(".")
    return experiment.settings[section][name] if dot else experiment.settings["finetune"][section]


def _format_word(value: object) -> str:
    """A value as a part of a run's name."""
    text = format_value(int(value) if isinstance(value, float) and value.is_integer() else value)
    word = re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")
    if isinstance(value, (list, dict)) or len(word) > MAX_WORD or not word:
        word = f"{word[:MAX_WORD].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
    return word


def record_path(name: str) -> Path:
    """The file with the record of a sweep."""
    return root() / "sweeps" / f"{name}.json"
