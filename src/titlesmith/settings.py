"""Settings: the parameters of the notebooks, how their values are read from text, and which values are allowed.

The ``parameters`` cell of a notebook is the only list of that stage's parameters: names, types, defaults and help. The
last clauses of the help are the constraint, for people and for `Constraint.parse` alike: ``1 or more``, ``0 to 1``,
``> 0``, ``> 0 to 1``, ``0 to < 1``, ``each > 0``, ``one of date, random``, or one of `RULES`. ``>= 1`` is not possible:
papermill skips a line with a second ``=``.
"""

import ast
import csv
import json
import math
import re
import typing
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, cached_property
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean
from titlesmith.runs import notebook, root, shipped
from titlesmith.yaml_text import read_yaml, split_items

KINDS = (str, int, float, bool, list[str], list[int], list[float], dict[str, str], list[dict[str, str]])
TYPES = {kind.__name__ if typing.get_origin(kind) is None else str(kind): kind for kind in KINDS}
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
MAX_INTEGER = 2**63 - 1
# As papermill reads it, whose import takes a second; people who type a line again may leave out its help
DECLARATION = re.compile(r"(\w+)\s*:\s*(.+?)\s*=\s*(.+?)(?:  # (.+))?")
RANGE = re.compile(r"(> )?(-?\d+(?:\.\d+)?)(?: or more| to (< )?(-?\d+(?:\.\d+)?))?")
RULES: dict[str, Callable[[object], bool]] = {
    "not empty": bool,
    "3 values": lambda values: len(values) == 3,
    "sum 1": lambda values: math.isclose(sum(values), 1),
    'YYYY-MM-DD or ""': lambda text: not text or date.fromisoformat(text).isoformat() == text,
}


@dataclass(frozen=True)
class Constraint:
    """Which values a parameter allows: a range, in which each item of a list must be, ``choices``, and `RULES`."""

    low: float = -MAX_INTEGER
    high: float = MAX_INTEGER
    choices: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    @classmethod
    def parse(cls, help: str) -> tuple[str, "Constraint"]:
        """Divides a parameter's help into the description and the constraint that its last clauses are."""
        clauses, constraint = help.split("; "), cls()
        while clauses:
            clause = clauses[-1].removeprefix("each ")
            match = RANGE.fullmatch(clause)
            if clause in RULES:
                constraint = replace(constraint, rules=(*constraint.rules, clause))
            elif clause.startswith("one of "):
                constraint = replace(constraint, choices=tuple(clause.removeprefix("one of ").split(", ")))
            elif match and clause != match[2]:
                above, first, below, last = match.groups()
                low, high = ast.literal_eval(first), ast.literal_eval(last) if last else MAX_INTEGER
                low, high = math.nextafter(low, math.inf) if above else low, math.nextafter(high, 0) if below else high
                constraint = replace(constraint, low=low, high=high)
            else:
                break
            clauses.pop()
        return "; ".join(clauses), constraint

    def allows(self, value: object) -> bool:
        """Whether a value of the parameter's type is allowed; a date that does not exist is a ValueError."""
        items = value if isinstance(value, list) else [value]
        return (
            (not self.choices or value in self.choices)
            and all(RULES[rule](value) for rule in self.rules)
            and all(self.low <= item <= self.high for item in items if type(item) in (int, float))
        )


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: annotation = default  # help``; experiments name it ``stage.name``."""

    stage: str
    name: str
    annotation: str
    default: object
    help: str

    @property
    def type(self) -> object:
        """The annotation as a type."""
        return TYPES[self.annotation]

    @property
    def description(self) -> str:
        """The help without the constraint."""
        return Constraint.parse(self.help)[0]

    @cached_property
    def constraint(self) -> Constraint:
        """The allowed values."""
        return Constraint.parse(self.help)[1]

    def parse(self, text: str) -> object:
        """A value typed on the command line, checked (RequestError).

        Items of a list are separated by commas; a list in brackets and a mapping are YAML, in which quotes protect
        commas. Other text is taken as typed.
        """
        tree = text
        try:
            if self.type == dict[str, str]:
                tree = read_yaml(text if text.lstrip().startswith("{") else f"{{{text}}}")
            elif self.type == list[dict[str, str]] and not text.endswith(".csv"):
                tree = read_yaml(text if text.lstrip().startswith("[") else f"[{text}]")
            elif self.type in (list[str], list[int], list[float]):
                tree = split_items(text)
        except ValueError as error:
            self._refuse(text, f": {error}")
        return self.check(tree)

    def check(self, value: object) -> object:
        """The value as the parameter's type, if it is allowed (else RequestError).

        Numbers may be texts, as `read_yaml` returns them. A list of mappings may be the name of a CSV file, whose rows
        it then has.
        """
        try:
            if self.type == list[dict[str, str]] and isinstance(value, str) and value.endswith(".csv"):
                value = _read_table(value)
            converted = _convert(value, self.type)
            json.dumps(converted, ensure_ascii=False).encode()
            is_allowed = self.constraint.allows(converted)
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            self._refuse(value, f": {error}")
        if not is_allowed:
            self._refuse(value, hint=did_you_mean(value, self.constraint.choices) if isinstance(value, str) else "")
        return converted

    def _refuse(self, value: object, why: str = "", hint: str = "") -> typing.NoReturn:
        raise RequestError(
            f"{self.stage}.{self.name}: {shorten(value)} is not allowed{why}. It needs {self.annotation}: {self.help}."
            f"{hint}"
        )


def defaults(stage: str) -> dict[str, object]:
    """The values of a stage's parameters where an experiment sets none."""
    return {name: parameter.default for name, parameter in declared(stage).items()}


@cache
def declared(stage: str) -> dict[str, Parameter]:
    """The parameters of a stage by name, without ``run_name`` (RequestError: they cannot be read).

    The notebook declares them; of those that it lacks, the declarations of titlesmith's own notebook count.
    """
    path = notebook(stage)
    return read_declarations(stage, shipped() / "notebooks" / path.name) | read_declarations(stage, path)


def read_declarations(stage: str, path: Path, content: bytes | None = None) -> dict[str, Parameter]:
    """The parameters that one notebook declares, or that its earlier ``content`` declared (RequestError)."""
    try:
        cells = json.loads(path.read_bytes() if content is None else content)["cells"]
        cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        lines = filter(None, map(DECLARATION.fullmatch, "".join(cell["source"]).splitlines()))
        return {
            name: Parameter(stage, name, annotation, ast.literal_eval(default), help or "")
            for name, annotation, default, help in (line.groups() for line in lines)
            if name != "run_name" and TYPES[annotation]
        }
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, StopIteration) as error:
        raise RequestError(f"{path}: its parameters cannot be read: {error}") from None


def _convert(value: object, kind: object) -> object:
    """A value, or a text of a number or a boolean, as a type (ValueError if it is not one)."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and isinstance(value, list):
        return [_convert(item, *inner) for item in value]
    if origin is dict and isinstance(value, dict) and None not in value.values():
        return {_convert(key, str): _convert(item, str) for key, item in value.items()}
    if kind is str and value is None:
        return ""
    if kind is str and isinstance(value, dict) and len(value) == 1:  # Deep: a study
        return ": ".join([*value, _convert(*value.values(), str)])
    if kind is bool and isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    if type(value) is kind:
        return value
    if kind in (int, float) and type(value) in (int, str):
        with suppress(ValueError, OverflowError):
            return kind(value)
    raise ValueError(f"it is not of type {getattr(kind, '__name__', kind)}")


def _read_table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, by the names in its first line."""
    with (root() / name).open(encoding="utf-8-sig", newline="") as file:
        return [{key: text or "" for key, text in row.items() if key} for row in csv.DictReader(file)]
