"""Sweep files: an experiment, the values to vary, published results, and figures, all checked."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.evaluate.report import MEASUREMENTS
from titlesmith.experiment import SHARED, find, read_file
from titlesmith.hints import did_you_mean
from titlesmith.runs import STAGES
from titlesmith.settings import declared

KEYS = ("experiment", "fixed", "cases", "set", "search", "repeat", "reference", "plot")
CASE = "case"  # what a run's ``set`` and a reference row call the name of a case


@dataclass(frozen=True)
class SweepFile:
    """A sweep file. Values are texts that `Parameter.parse` reads.

    Attributes
    ----------
    name
        The file's name, or empty for a plain experiment.
    path
        The experiment.
    fixed
        Values of all runs, ``section.key=value``.
    cases
        Values that vary together, by the case's name.
    set
        Lists of values, of which every combination is a run.
    search
        ``ranges``, ``trials`` and ``metric`` of a search; empty without one.
    reference
        Published results: ``set``, ``source``, and numbers by the names of `MEASUREMENTS`.
    plot
        Pairs of a hyperparameter or a measurement, and a measurement.
    """

    name: str
    path: Path
    fixed: tuple[str, ...] = ()
    cases: dict[str, dict[str, str]] = field(default_factory=dict)
    set: dict[str, list[str]] = field(default_factory=dict)
    search: dict = field(default_factory=dict)
    repeat: str = "1"
    reference: list[dict] = field(default_factory=list)
    plot: list[list[str]] = field(default_factory=list)

    @classmethod
    def read(cls, request: str) -> "SweepFile":
        """Reads a sweep file or an experiment: a path, or a name below ``experiments/`` (RequestError)."""
        path = find(request, "**/*.yml")
        content = read_file(path)
        if not isinstance(content, dict) or "experiment" not in content:
            return cls("", path)
        for key in content:
            if key not in KEYS:
                hint = did_you_mean(key, KEYS)
                raise RequestError(
                    f"{request}: key {shorten(key)} is unknown.{hint} A sweep file has: {', '.join(KEYS)}"
                )
        experiment = path.parent / str(content["experiment"])
        fixed, cases, values = (content.get(key) or {} for key in ("fixed", "cases", "set"))
        if not isinstance(fixed, dict):
            raise RequestError(f"{request}: fixed: needs keys with values, such as finetune.batch_size: 8")
        if not isinstance(cases, dict) or not all(isinstance(case, dict) and case for case in cases.values()):
            raise RequestError(f"{request}: cases: needs names with keys and values, such as small: {{model: 82M}}")
        if not isinstance(values, dict) or not all(isinstance(v, list) and v for v in values.values()):
            raise RequestError(f"{request}: set: needs keys with lists of values, such as finetune.batch_size: [1, 8]")
        return cls(
            path.stem,
            experiment if experiment.is_file() else find(str(content["experiment"])),
            tuple(f"{key}={format_value(value)}" for key, value in fixed.items()),
            {name: {key: format_value(value) for key, value in case.items()} for name, case in cases.items()},
            {str(key): list(map(format_value, items)) for key, items in values.items()},
            content.get("search") or {},
            str(content.get("repeat", 1)),
            _read_reference(content.get("reference") or [], request),
            _read_plot(content.get("plot") or [], request),
        )


def format_value(value: object) -> str:
    """A value as a text that `Parameter.parse` reads."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check_measurement(name: str, where: str) -> None:
    """Checks that a measurement has this name (RequestError)."""
    if name not in MEASUREMENTS:
        hint = did_you_mean(name, MEASUREMENTS)
        raise RequestError(f"{where}: {shorten(name)} is not a measurement.{hint} There are: {', '.join(MEASUREMENTS)}")


def _read_reference(rows: object, where: str) -> list[dict]:
    """Published results with measurements by name; in a file, those of several splits may be ``loss: {test: 3}``."""
    result = []
    try:
        for row in rows:
            values = {key: _parse(key, value, where) for key, value in (row.get("set") or {}).items()}
            kept = {"set": values, "source": str(row["source"])}
            for name in row.keys() - kept.keys():
                named = row[name].items() if isinstance(row[name], dict) else [("", row[name])]
                kept |= {f"{name}.{split}" if split else name: float(value) for split, value in named}
            result.append(kept)
    except (AttributeError, KeyError, TypeError, ValueError):
        form = "{set: ..., source: ..., perplexity: {test: ...}}"
        raise RequestError(f"{where}: reference: needs a list of {form}, with numbers of any measurement") from None
    for row in result:
        for name in row.keys() - {"set", "source"}:
            check_measurement(name, f"{where}: reference")
    return result


def _parse(key: str, value: object, where: str) -> object:
    """A value of a published result, of the parameter's type."""
    section, dot, name = key.partition(".")
    stage, name = (section, name) if dot else ("finetune", section)
    if key == CASE:
        return str(value)
    if stage not in STAGES or name not in declared(stage) or not (dot or key in SHARED):
        raise RequestError(f"{where}: reference: {shorten(key)} is not a parameter")
    return declared(stage)[name].parse(format_value(value))


def _read_plot(rows: object, where: str) -> list[list[str]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() == {"x", "y"} for row in rows):
        raise RequestError(
            f"{where}: plot: needs a list of {{x: ..., y: ...}}, such as {{x: generate.temperature, y: copy_rate}}"
        )
    for row in rows:
        check_measurement(row["y"], f"{where}: plot")
        if "." not in row["x"] and row["x"] not in (CASE, "model", "seed"):
            check_measurement(row["x"], f"{where}: plot")
    return [[row["x"], row["y"]] for row in rows]
