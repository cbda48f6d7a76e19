"""The plan of a sweep: a grid of runs, all checked, and the jobs that execute them, each shared stage once."""

import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.experiment import Experiment, find, read_file
from titlesmith.hints import did_you_mean
from titlesmith.runs import STAGES, Run, root
from titlesmith.yaml_text import split_items

FILE = ("experiment", "set", "repeat", "reference")  # keys of a sweep file
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
        The job that must be done before this one; None if there is none.
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

    @property
    def key(self) -> str:
        """Run and last stage."""
        return f"{self.point.name}/{self.until}"


@dataclass(frozen=True)
class Plan:
    """A sweep: name, experiment file, varied keys, points, repeats of each, last stage, and published figures."""

    name: str
    path: Path
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    repeat: int = 1
    until: str = STAGES[-1]
    reference: list[dict] = field(default_factory=list)

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
        A sweep file or an experiment: a path, or a name below ``experiments/``.
    sets
        ``section.key=value,value``, in addition to the sweep file. Values with commas, and lists, need YAML:
        ``section.key=[[a, b], [c]]``.
    base
        ``section.key=value`` for all runs.
    repeat
        Runs of each combination, with consecutive seeds of training and sampling.
    name
        The sweep's name, the beginning of its runs' names. Default: the sweep file's, or experiment and keys.
    until
        The last stage.

    Raises
    ------
    RequestError
        A key is unknown, a value is not allowed, two runs are the same, there are more than `MAX_RUNS`, or a run of
        that name belongs to something else.
    """
    # The file: a sweep, or an experiment
    file = path = find(request, "**/*.yml")
    content = read_file(file)
    if not isinstance(content, dict) or "experiment" not in content:
        content = {}
    for key in content:
        if key not in FILE:
            hint = did_you_mean(key, FILE)
            raise RequestError(f"{request}: key {shorten(key)} is unknown.{hint} A sweep file has: {', '.join(FILE)}")
    if content:
        path = file.parent / str(content["experiment"])
        path = path if path.is_file() else find(str(content["experiment"]))
    # The grid
    typed = dict(map(_parse, sets))
    values = _values(content.get("set") or {}, request) | typed
    repeats = str(content.get("repeat", 1) if repeat is None else repeat)
    if not re.fullmatch(r"0*[1-9]\d{0,8}", repeats):
        raise RequestError(f"repeat: {shorten(repeats)} is not a number of runs: it needs an int, 1 or more")
    if not values and int(repeats) == 1:
        raise RequestError("nothing is varied: add --set finetune.learning_rate=1e-4,5e-5, say, or --repeat 3")
    if (count := int(repeats) * math.prod(map(len, values.values()))) > MAX_RUNS:
        raise RequestError(f"the sweep has {count:,} runs, and at most {MAX_RUNS:,} are allowed: vary fewer values")
    # The runs
    name = name or (file.stem if content else "-".join([path.stem, *(key.split(".")[-1] for key in values)]))
    Run(name)  # checks the name
    labels = {key: "--set " if key in typed else f"{request}: set: " for key in values}
    points = _points(name, path, values, base, int(repeats), labels)
    _check_names(name, points)
    reference = _reference(content.get("reference") or [], request)
    return Plan(name, path, tuple(values), tuple(points), int(repeats), until, reference)


def _points(
    name: str, path: Path, values: dict[str, list[str]], base: tuple[str, ...], repeats: int, labels: dict[str, str]
) -> list[Point]:
    """All combinations of values, checked; ``labels`` say where a key's values come from."""
    Experiment.read(path, base)  # so that an error without any --set is reported without one
    points, known = [], {}
    for texts in itertools.product(*values.values()):
        given = {key: f"{key}={text}" for key, text in zip(values, texts, strict=True)}
        for number in range(1, repeats + 1):
            try:
                experiment = Experiment.read(path, (*base, *given.values()))
                seeds = [f"{s}.seed={experiment.settings[s]['seed'] + number - 1}" for s in REPEATED if number > 1]
                experiment = Experiment.read(path, (*base, *given.values(), *seeds)) if seeds else experiment
            except RequestError as error:
                raise _labelled(path, base, given, labels, str(error)) from None
            chosen = {key: _setting(experiment, key) for key in values}
            words = [name, *map(_word, chosen.values()), *([f"r{number}"] if repeats > 1 else [])]
            point = Point("-".join(words), chosen, number, experiment)
            # Two runs with the same settings, or with the same name, cannot both exist
            settings = json.dumps(experiment.settings, sort_keys=True)
            if twin := known.get(settings) or known.get(point.name):
                other, before = twin
                repeated = [key for key in values if values[key].count(given[key].partition("=")[2]) > 1]
                keys = [key for key in values if given[key] != before[key]] or repeated
                raise RequestError(
                    f"two runs of this sweep are the same, {' and '.join(dict.fromkeys((other, point.name)))}: "
                    f"{', '.join(keys)}: a value is there twice"
                )
            known |= dict.fromkeys((settings, point.name), (point.name, given))
            points.append(point)
    return points


def _labelled(
    path: Path, base: tuple[str, ...], given: dict[str, str], labels: dict[str, str], message: str
) -> RequestError:
    """The error with the setting that causes it: of several, the one that causes it alone."""
    for key, one in given.items():
        try:
            Experiment.read(path, (*base, one))
        except RequestError as error:
            if str(error) == message:
                given = {key: one}
                break
    for one in given.values():
        message = message.removeprefix(f"-p {shorten(one)}: ")
    return RequestError(f"{' '.join(labels[key] + shorten(one)[1:-1] for key, one in given.items())}: {message}")


def _check_names(name: str, points: list[Point]) -> None:
    """Checks that no run of these names belongs to another sweep, or to none (RequestError)."""
    for point in points:
        path = Run(point.name) / "run.json"
        try:
            owner = json.loads(path.read_text("utf-8")).get("sweep", {}).get("name")
        except (OSError, ValueError, AttributeError):  # missing, or damaged, which the run itself will report
            continue
        if owner != name:
            raise RequestError(
                f"{path.parent} is a run of {f'another sweep, {owner}' if owner else 'no sweep'}, and would be "
                "overwritten: choose another name with --name"
            )


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
    if isinstance(value, (list, dict)) or len(word) > MAX_WORD or not word:
        word = f"{word[:MAX_WORD].strip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}".lstrip("-")
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
    """The file with the record of a sweep."""
    return root() / "sweeps" / f"{name}.json"
