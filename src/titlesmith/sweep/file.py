"""Sweep files: an experiment, the values to vary, published results, and figures, all checked."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.experiment import find, find_parameter, read_file
from titlesmith.hints import did_you_mean
from titlesmith.settings import BOOLEANS, Parameter

CASE = "case"  # what a run's ``set`` and a reference row call the name of a case
REPEAT = Parameter("sweep", "repeat", "int", 1, "runs of each combination, with different seeds; 1 to 1000")
TRIALS = Parameter("search", "trials", "int", 20, "number of runs; 1 to 1000")


@dataclass(frozen=True)
class Search:
    """A search: number of trials, measurement to optimize, and by key ``choices``, or ``low``, ``high``, ``log``."""

    trials: int
    metric: str
    ranges: dict[str, dict]

    def ends(self) -> list[dict[str, str]]:
        """Combinations that together have every choice and both ends of every range, as texts."""
        values = {key: own.get("choices") or [own["low"], own["high"]] for key, own in self.ranges.items()}
        size = max(map(len, values.values()))
        return [{key: format_value(own[min(i, len(own) - 1)]) for key, own in values.items()} for i in range(size)]


@dataclass(frozen=True)
class SweepFile:
    """A sweep file; a plain experiment has no ``name``. Values are texts that `Parameter.check` reads.

    ``fixed`` are values of all runs, ``section.key=value``; ``cases`` values that vary together; of the lists of values
    in ``set``, every combination is a run. ``reference`` are published results: ``set``, ``source``, and numbers by the
    names of `MEASUREMENTS`. ``plot`` are pairs of a hyperparameter or a measurement, and a measurement.
    """

    name: str
    path: Path
    fixed: tuple[str, ...] = ()
    cases: dict[str, dict[str, str]] = field(default_factory=dict)
    set: dict[str, list[str]] = field(default_factory=dict)
    search: Search | None = None
    repeat: int = 1
    reference: list[dict] = field(default_factory=list)
    plot: list[list[str]] = field(default_factory=list)

    @classmethod
    def read(cls, request: str) -> "SweepFile":
        """Reads a sweep file or an experiment: a path, or a name below ``experiments/`` (RequestError)."""
        path = find(request, "**/*.yml")
        content = read_file(path)
        if not isinstance(content, dict) or "experiment" not in content:
            return cls("", path)
        experiment, sections = str(content.pop("experiment")), {}
        for key, value in content.items():
            if key not in SECTIONS:
                hint = f"{did_you_mean(key, SECTIONS)} There are: experiment, {', '.join(SECTIONS)}"
                raise RequestError(f"{request}: key {shorten(key)} is unknown.{hint}")
            read, form = SECTIONS[key]
            try:
                sections |= {} if value == "" else {key: read(value)}
            except RequestError as error:
                raise RequestError(f"{request}: {key}: {error}") from None
            except (AttributeError, KeyError, TypeError, ValueError):
                raise RequestError(f"{request}: {key}: {shorten(value)} does not have the form {form}") from None
        beside = path.parent / experiment
        return cls(path.stem, beside if beside.is_file() else find(experiment), **sections)


def format_value(value: object) -> str:
    """A value as a text that `Parameter.check` reads."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_measurement(name: str) -> None:
    """Checks that a measurement has this name (RequestError)."""
    if name not in MEASUREMENTS:
        hint = did_you_mean(name, MEASUREMENTS)
        raise RequestError(f"{shorten(name)} is not a measurement.{hint} There are: {', '.join(MEASUREMENTS)}")


# The sections of a file; a wrong type is one of the errors that `SweepFile.read` handles


def _format_values(values: dict) -> dict[str, str]:
    return {key: format_value(value) for key, value in values.items()}


def _read_list(value: object) -> list:
    if not isinstance(value, list) or not value:
        raise ValueError
    return value


def _read_search(content: dict) -> Search:
    metric = content.get("metric", "perplexity.valid")
    check_measurement(metric)
    if not MEASUREMENTS[metric][1]:
        raise RequestError(f"neither low nor high values of {metric} are better; choose another")
    ranges = {key: _read_range(find_parameter(key), values) for key, values in content["ranges"].items()}
    if not ranges or content.keys() - {"trials", "metric", "ranges"}:
        raise ValueError
    return Search(TRIALS.check(content["trials"]), metric, ranges)


def _read_range(parameter: Parameter, values: dict) -> dict:
    if "choices" in values:
        return {"choices": [parameter.check(format_value(value)) for value in _read_list(values["choices"])]}
    low, high = parameter.check(values["low"]), parameter.check(values["high"])
    is_log = BOOLEANS[values.get("log", "false").lower()]
    if parameter.type not in (int, float) or not low < high or (is_log and low <= 0):
        raise ValueError
    return {"low": low, "high": high, "log": is_log}


def _read_reference(rows: object) -> list[dict]:
    """Published results with measurements by name; in a file, those of several splits may be ``loss: {test: 3}``."""
    result = []
    for row in _read_list(rows):
        result.append({"set": {}, "source": str(row["source"])})
        for key, value in (row.get("set") or {}).items():
            result[-1]["set"][key] = value if key == CASE else find_parameter(key).check(format_value(value))
        for name in row.keys() - {"set", "source"}:
            named = row[name].items() if isinstance(row[name], dict) else [("", row[name])]
            numbers = {f"{name}.{split}" if split else name: float(value) for split, value in named}
            for measurement in numbers:
                check_measurement(measurement)
            result[-1] |= numbers
    return result


def _read_plot(rows: object) -> list[list[str]]:
    pairs = [[row["x"], row["y"]] for row in _read_list(rows)]
    for x, y in pairs:
        check_measurement(y)
        if "." not in x and x not in (CASE, "model", "seed"):
            check_measurement(x)
    return pairs


# The reader of each section, and an example of its form
SECTIONS = {
    "fixed": (
        lambda values: tuple(f"{key}={value}" for key, value in _format_values(values).items()),
        "{finetune.batch_size: 8}",
    ),
    "cases": (
        lambda cases: {name: _format_values(values) for name, values in cases.items()},
        "{small: {model: 82M}}",
    ),
    "set": (
        lambda values: {key: list(map(format_value, _read_list(items))) for key, items in values.items()},
        "{finetune.batch_size: [1, 8]}",
    ),
    "search": (_read_search, "{trials: 20, ranges: {finetune.steps: {low: 9, high: 99}, seed: {choices: [1, 2]}}}"),
    "repeat": (REPEAT.check, "3"),
    "reference": (_read_reference, "[{set: {model: 82M}, source: a report, perplexity: {test: 20}}]"),
    "plot": (_read_plot, "[{x: generate.temperature, y: copy_rate}]"),
}
