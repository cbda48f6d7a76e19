"""The plan of a sweep: its runs, all checked, and the stages that they share."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.experiment import Experiment, find_parameter
from titlesmith.runs import STAGES, Run, root
from titlesmith.settings import split_items
from titlesmith.sweep.file import CASE, REPEAT, SweepFile, format_value

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


@dataclass(frozen=True)
class Plan:
    """A sweep: its file, name, varied keys, points and last stage.

    The points of a search are at the ends of its ranges, and are not executed; ``make`` returns that of a trial, from
    its number and the values of its keys as texts.
    """

    file: SweepFile
    name: str
    keys: tuple[str, ...]
    points: tuple[Point, ...]
    until: str = STAGES[-1]
    make: Callable[[int, dict[str, str]], Point] | None = None

    @property
    def total(self) -> int:
        """The number of runs."""
        return self.file.search.trials if self.file.search else len(self.points)

    def describe(self) -> list[str]:
        """Lines for people: each run with its values, and the run whose stages it shares."""
        lines, search = [f"sweep {self.name}: {self.total} runs of {self.file.path.stem}"], self.file.search
        if search:
            lines[0] += f", a search by {search.metric}"
            return lines + [f"  {key}: {json.dumps(values)}" for key, values in search.ranges.items()]
        groups = group(self.points)
        for point in self.points:
            values = point.set | self.file.cases.get(point.set.get(CASE), {})
            shown = ", ".join(f"{key} {format_value(value)}" for key, value in values.items())
            firsts = {stage: names[0] for stage, names in groups[point.name].items() if names[0] != point.name}
            taken = f"; {', '.join(firsts)} from {list(firsts.values())[-1]}" if firsts else ""
            lines.append(f"  {point.name}: {shown or f'seed {point.repeat}'}{taken}")
        return lines


def group(points: tuple[Point, ...]) -> dict[str, dict[str, list[str]]]:
    """For each run and stage, the names of the runs with the same settings up to this stage, which share its result."""
    by_settings: dict[str, list[str]] = {}
    groups: dict[str, dict[str, list[str]]] = {}
    for point in points:
        settings = ""
        for stage in STAGES:
            settings += json.dumps(point.experiment.settings[stage], sort_keys=True)
            groups.setdefault(point.name, {})[stage] = by_settings.setdefault(settings, [])
            by_settings[settings].append(point.name)
    return groups


def read(
    request: str,
    sets: tuple[str, ...] = (),
    base: tuple[str, ...] = (),
    repeat: int | None = None,
    name: str | None = None,
    until: str = STAGES[-1],
    remarks: list[str] | None = None,
) -> Plan:
    """Plans a sweep, and checks every run of it and that its directory is free or of this sweep (RequestError).

    ``request`` is a sweep file or an experiment, see `SweepFile.read`. ``sets`` are values to vary in addition to the
    file's, ``section.key=value,value`` or ``section.key=[[a, b], [c]]``; ``base`` are values of all runs. ``repeat`` is
    the number of runs of each combination. ``name`` is the beginning of the runs' names, by default the file's or
    experiment and keys. ``remarks``, a list, gets what is missing on this machine, which is not an error then.
    """
    file = SweepFile.read(request)
    path, base = file.path, (*file.fixed, *base)
    # The grid: the cases, and the values of each key as texts that `Parameter.check` reads
    values = file.set | dict(map(_parse, sets))
    for case, own in file.cases.items():
        if both := own.keys() & values.keys():
            raise RequestError(f"{request}: {', '.join(both)} is varied, and case {case} sets it: leave one out")
    keys = (*([CASE] if file.cases else []), *values)
    repeat = REPEAT.check(file.repeat if repeat is None else repeat)
    if not keys and not file.search and repeat == 1:
        raise RequestError("nothing is varied: add --set finetune.learning_rate=1e-4,5e-5, say, or --repeat 3")
    if (count := repeat * max(1, len(file.cases)) * math.prod(map(len, values.values()))) > MAX_RUNS:
        raise RequestError(f"the sweep has {count:,} runs, and at most {MAX_RUNS:,} are allowed: vary fewer values")
    if file.search and (keys or repeat > 1 or until != STAGES[-1]):
        raise RequestError(f"{request}: a search chooses the values and needs all stages: leave out set, cases, repeat")
    name = name or file.name or "-".join([path.stem, *(key.split(".")[-1] for key in values)])
    Experiment.read(path, base, remarks)  # so that an error without any --set is reported without one

    def read_point(own: dict[str, str], case: str = "", number: int = 1) -> tuple[dict[str, object], Experiment]:
        """The varied values of a run, and its settings."""
        overrides = [f"{key}={text}" for key, text in (file.cases.get(case, {}) | own).items()]
        try:
            experiment = Experiment.read(path, (*base, *overrides), remarks)
            seeds = [f"{s}.seed={experiment.settings[s]['seed'] + number - 1}" for s in REPEATED if number > 1]
            experiment = Experiment.read(path, (*base, *overrides, *seeds), remarks) if seeds else experiment
        except RequestError as error:
            raise RequestError(f"{request}: {shorten(' '.join(overrides))[1:-1]}: {error}") from None
        parameters = {key: find_parameter(key) for key in own}
        chosen = {key: experiment.settings[p.stage][p.name] for key, p in parameters.items()}
        return ({CASE: case} if case else {}) | chosen, experiment

    def make_trial(number: int, texts: dict[str, str]) -> Point:
        chosen, experiment = read_point(texts)
        return Point(f"{name}-t{number}", chosen, 1, experiment)

    if file.search:
        for number in range(file.search.trials):
            _check_owner(f"{name}-t{number}", name, file.search.ranges)
        ends = tuple(itertools.starmap(make_trial, enumerate(file.search.ends())))
        return Plan(file, name, tuple(file.search.ranges), ends, make=make_trial)
    # The runs of a grid
    points: dict[str, Point] = {}
    for case, *texts in itertools.product(file.cases or [""], *values.values()):
        for number in range(1, repeat + 1):
            chosen, experiment = read_point(dict(zip(values, texts, strict=True)), case, number)
            words = [name, *map(_format_word, chosen.values()), *([f"r{number}"] if repeat > 1 else [])]
            point = Point("-".join(words), chosen, number, experiment)
            if points.setdefault(point.name, point) is not point:
                raise RequestError(f"two runs of this sweep are the same, {point.name}: remove the repeated value")
            _check_owner(point.name, name, keys)
    return Plan(file, name, keys, tuple(points.values()), until)


def _check_owner(name: str, sweep: str, keys: Iterable[str]) -> None:
    """Checks that there is no run of this name, except of this sweep with the same varied keys (RequestError)."""
    run = Run(name)
    owner = run.info.get("sweep", {})
    if run.info and (owner.get("name") != sweep or owner["set"].keys() != set(keys)):
        varied = f"the sweep {owner['name']} of {', '.join(owner['set']) or 'seeds'}" if owner else "no sweep"
        raise RequestError(
            f"{run.path} is a run of {varied}, and would be overwritten: choose another name with --name"
        )


def _parse(text: str) -> tuple[str, list[str]]:
    """Key and values of a ``--set``."""
    key, equals, values = text.partition("=")
    if not equals:
        raise RequestError(
            f"--set {shorten(text)}: it needs the form section.key=value,value, such as finetune.batch_size=1,8"
        )
    return key, list(map(format_value, split_items(values))) or [""]


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
