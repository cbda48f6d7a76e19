"""The plan of a sweep: its grid of runs, all checked, and the jobs that make them, each shared stage once."""

import hashlib
import itertools
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.experiment import Experiment, find, read_file
from titlesmith.hints import did_you_mean
from titlesmith.runs.record import STAGES, Run, root
from titlesmith.settings import split_items

FILE = ("experiment", "set", "repeat", "reference")  # keys of a sweep file
REPEATED = ("finetune", "generate")  # stages whose seed a repeat changes: papers and splits stay the same
MAX_RUNS = 1000
LONGEST = 40  # characters of a value in a run's name


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a sweep: its name, ``section.key: value`` of what is varied, which repeat it is, and all settings."""

    name: str
    set: dict[str, object]
    repeat: int
    experiment: Experiment


@dataclass(frozen=True, eq=False)
class Job:
    """Stages of a run up to ``until``, behind those that it takes over.

    Attributes
    ----------
    after
        The job that must be done before; None where none must.
    takes
        Stages to take over from the run of ``after`` rather than to execute.
    last
        Whether the run is complete with this job.
    """

    point: Point
    until: str
    after: "Job | None"
    takes: tuple[str, ...]
    last: bool

    @property
    def key(self) -> str:
        """Run and last stage."""
        return f"{self.point.name}/{self.until}"


@dataclass(frozen=True)
class Plan:
    """A sweep: name, experiment file, keys that vary, points, repeats of each, last stage, and published figures."""

    name: str
    path: Path
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    repeat: int = 1
    until: str = STAGES[-1]
    reference: list[dict] = field(default_factory=list)

    def jobs(self) -> list[Job]:
        """What is to do, each job behind the one that it needs.

        Runs whose settings agree up to a stage share what lies until there: the first of them executes it.
        """
        stages = STAGES[: STAGES.index(self.until) + 1]
        firsts: dict[tuple, str] = {}  # settings up to a stage -> the run that executes it
        shared: dict[str, tuple[str, str]] = {}  # a run -> the run that it takes from, and the last stage that it takes
        for point in self.points:
            made_of: tuple = ()
            for stage in stages:
                made_of += (json.dumps(point.experiment.settings[stage], sort_keys=True),)
                first = firsts.setdefault(made_of, point.name)
                if first != point.name:
                    shared[point.name] = first, stage
        jobs: dict[tuple[str, str], Job] = {}
        for point in self.points:
            ends = {stage for first, stage in shared.values() if first == point.name} | {self.until}
            after, takes = None, ()
            if point.name in shared:
                after = jobs[shared[point.name]]
                takes = STAGES[: STAGES.index(after.until) + 1]
            for stage in sorted(ends, key=STAGES.index):
                jobs[point.name, stage] = after = Job(point, stage, after, takes, stage == self.until)
                takes = ()
        return list(jobs.values())


def read(
    request: str,
    sets: tuple[str, ...] = (),
    base: tuple[str, ...] = (),
    repeat: int | None = None,
    name: str | None = None,
    until: str = STAGES[-1],
) -> Plan:
    """Plans a sweep and checks every run of it.

    Parameters
    ----------
    request
        A sweep file, or an experiment; a path or a name below ``experiments/``.
    sets
        ``section.key=value,value``: added to what a sweep file varies. Values that hold commas, and lists, need YAML:
        ``section.key=[[a, b], [c]]``.
    base
        ``section.key=value`` for all runs.
    repeat
        Runs of each setting, with seeds of training and drawing that follow one another.
    name
        Of the sweep, which begins its runs' names; by default the sweep file's, or the experiment's and the keys'.
    until
        The last stage.

    Raises
    ------
    RequestError
        A key is unknown, a value is not allowed, two runs are the same, or a run of that name is of something else.
    """
    path, content = find(request, "**/*.yml"), {}
    file, found = path, read_file(path)
    if isinstance(found, dict) and "experiment" in found:
        content, path = found, _experiment(path, found["experiment"])
    for key in content:
        if key not in FILE:
            hint = did_you_mean(key, FILE)
            raise RequestError(f"{request}: key {shorten(key)} is unknown.{hint} A sweep file has: {', '.join(FILE)}")
    typed = dict(map(_parse, sets))
    values = _values(content.get("set") or {}, request) | typed
    repeat = str(content.get("repeat", 1) if repeat is None else repeat)
    if not re.fullmatch(r"0*[1-9]\d{0,8}", repeat):
        raise RequestError(f"repeat: {shorten(repeat)} is not a number of runs: it needs an int, 1 or more")
    repeat = int(repeat)
    if not values and repeat == 1:
        raise RequestError("nothing is varied: give --set finetune.learning_rate=1e-4,5e-5, say, or --repeat 3")
    if (count := repeat * math.prod(map(len, values.values()))) > MAX_RUNS:
        raise RequestError(
            f"the sweep has {count:,} runs, and at most {MAX_RUNS:,} are allowed: vary fewer values, or make several "
            "sweeps"
        )
    keys = tuple(values)
    stem = file.stem if content else "-".join([path.stem, *(key.split(".")[-1] for key in keys)])
    name = name or stem
    Run(name)  # checks the name
    points = _points(
        name, path, values, base, repeat, {key: "--set " if key in typed else f"{request}: set: " for key in keys}
    )
    _check_names(name, points)
    reference = _reference(content.get("reference") or [], request)
    return Plan(name, path, keys, tuple(points), repeat, until, reference)


def _points(
    name: str, path: Path, values: dict[str, list[str]], base: tuple[str, ...], repeat: int, origin: dict[str, str]
) -> list[Point]:
    Experiment.read(path, base)  # so that what is wrong without any --set is said without one
    points, same = [], {}
    for texts in itertools.product(*values.values()):
        given = {key: f"{key}={text}" for key, text in zip(values, texts, strict=True)}
        for number in range(1, repeat + 1):
            try:
                experiment = Experiment.read(path, (*base, *given.values()))
                seeds = [(s, experiment.settings[s]["seed"] + number - 1) for s in REPEATED] if number > 1 else []
                experiment = Experiment.read(path, (*base, *given.values(), *(f"{s}.seed={seed}" for s, seed in seeds)))
            except RequestError as error:
                raise _refusal(path, base, given, origin, str(error)) from None
            chosen = {key: _setting(experiment, key) for key in values}
            words = [name, *map(_word, chosen.values()), *([f"r{number}"] if repeat > 1 else [])]
            point = Point("-".join(words), chosen, number, experiment)
            settings = json.dumps(experiment.settings, sort_keys=True)
            if twin := same.get(settings) or same.get(point.name):
                other, before = twin
                double = [key for key, text in zip(values, texts, strict=True) if values[key].count(text) > 1]
                keys = [key for key in values if given[key] != before[key]] or double
                raise RequestError(
                    f"two runs of this sweep are the same, {' and '.join(dict.fromkeys((other, point.name)))}: "
                    f"{', '.join(keys)}: a value is there twice"
                )
            same |= dict.fromkeys((settings, point.name), (point.name, given))
            points.append(point)
    return points


def _refusal(
    path: Path, base: tuple[str, ...], given: dict[str, str], origin: dict[str, str], said: str
) -> RequestError:
    """What is wrong with a setting, and where it was given: of several, the one that is wrong without the others."""
    for key, one in given.items():
        try:
            Experiment.read(path, (*base, one))
        except RequestError as alone:
            if str(alone) == said:
                given = {key: one}
                break
    for one in given.values():
        said = said.removeprefix(f"-p {shorten(one)}: ")
    return RequestError(f"{' '.join(origin[key] + shorten(one)[1:-1] for key, one in given.items())}: {said}")


def _check_names(name: str, points: list[Point]) -> None:
    for point in points:
        path = Run(point.name) / "run.json"
        try:
            of = json.loads(path.read_text("utf-8")).get("sweep", {}).get("name", "none")
        except (OSError, ValueError, AttributeError):  # not there, or damaged, which the run itself will say
            continue
        if of != name:
            raise RequestError(
                f"{path.parent} is a run of {'another sweep, ' + of if of != 'none' else 'no sweep'}, and would be "
                "overwritten: give this sweep another name with --name"
            )


def _experiment(path: Path, named: object) -> Path:
    """The experiment of a sweep file: beside it, or as `find` finds it."""
    beside = path.parent / str(named)
    return beside if beside.is_file() else find(str(named))


def _values(sets: object, where: str) -> dict[str, list[str]]:
    if not isinstance(sets, dict) or not all(isinstance(v, list) and v for v in sets.values()):
        raise RequestError(f"{where}: set: needs keys with lists of values, such as finetune.batch_size: [1, 8]")
    return {str(key): list(map(_text, values)) for key, values in sets.items()}


def _parse(text: str) -> tuple[str, list[str]]:
    """Key and values of a ``--set``, the values as texts that `Parameter.parse` reads."""
    key, equals, values = text.partition("=")
    if not equals:
        raise RequestError(
            f"--set {shorten(text)}: it needs the form section.key=value,value, such as finetune.batch_size=1,8"
        )
    try:
        return key, list(map(_text, split_items(values))) or [""]
    except ValueError as error:
        raise RequestError(f"--set {shorten(text)}: {error}") from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _setting(experiment: Experiment, key: str) -> object:
    section, dot, name = key.partition(".")
    return experiment.settings[section][name] if dot else experiment.settings["finetune"][section]


def _word(value: object) -> str:
    """A value as a part of a run's name."""
    text = _text(value)
    word = re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")
    if isinstance(value, (list, dict)) or len(word) > LONGEST or not word:
        word = f"{word[:LONGEST].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
    return word


def _reference(rows: object, where: str) -> list[dict]:
    """Published figures of other systems: ``set``, ``perplexity`` by split, and ``source``."""
    try:
        return [
            {"set": row.get("set", {}), "source": row["source"]}
            | {"perplexity": {split: float(value) for split, value in row["perplexity"].items()}}
            for row in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RequestError(
            f"{where}: reference: needs a list of {{set: ..., perplexity: {{test: ...}}, source: ...}}"
        ) from None


def record(name: str) -> Path:
    """Where the record of a sweep lies."""
    return root() / "sweeps" / f"{name}.json"


def relative(path: Path) -> str:
    """A path as seen from the project."""
    return os.path.relpath(path, root())
