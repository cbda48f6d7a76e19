"""Settings: the parameters of the notebooks, how their values are read from text, and which values are allowed.

The ``parameters`` cell of a notebook is the only list of that stage's parameters. papermill reads names, annotated
types, defaults and help from it. The last clauses of the help are the constraint, for people and for `Constraint.parse`
alike: ``1 or more``, ``0 to 1``, ``> 0``, ``> 0 to 1``, ``0 to < 1``, ``each > 0``, ``3 values``, ``sum 1``, ``one of
date, random``, ``not empty``, ``YYYY-MM-DD or ""``. ``>= 1`` is not possible: papermill skips a line with a second
``=``.
"""

import ast
import csv
import json
import math
import re
import typing
from dataclasses import dataclass
from datetime import date
from functools import cache, cached_property
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean
from titlesmith.package import shipped
from titlesmith.runs import notebook, root
from titlesmith.yaml_text import read_yaml, split_items

KINDS = (str, int, float, bool, list[str], list[int], list[float], dict[str, str], list[dict[str, str]])
TYPES = {kind.__name__ if typing.get_origin(kind) is None else str(kind): kind for kind in KINDS}
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
MAX_INTEGER = 2**63 - 1
# As papermill reads it, whose import takes a second; people who type a line again may leave out its help
DECLARATION = re.compile(r"(\w+)\s*:\s*(.+?)\s*=\s*(.+?)(?:  # (.+))?")
NUMBER = r"(-?\d+(?:\.\d+)?)"


@dataclass(frozen=True)
class Constraint:
    """Which values a parameter allows; of a list, each item must be in range.

    ``open_low`` and ``open_high`` exclude the ends of the range. ``choices`` are all allowed values, if there are any.
    ``length`` and ``total`` are the number of a list's items and their sum.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    choices: tuple[str, ...] = ()
    length: int | None = None
    total: float | None = None
    not_empty: bool = False
    is_date: bool = False

    @classmethod
    def parse(cls, help: str) -> tuple[str, "Constraint"]:
        """Divides a parameter's help into the description and the constraint that its last clauses are."""
        clauses, fields = help.split("; "), {}
        while clauses and (clause := _parse_clause(clauses[-1].removeprefix("each "))):
            fields |= clause
            clauses.pop()
        return "; ".join(clauses), cls(**fields)

    def violation(self, value: object) -> str:
        """Why a value is not allowed, as the end of a sentence; empty if it is allowed."""
        items = value if isinstance(value, list) else [value]
        if self.choices and value not in self.choices:
            return f"is not one of {', '.join(self.choices)}"
        if self.not_empty and not value:
            return "is empty"
        if self.is_date and value and not _is_date(value):
            return "is not a date"
        if self.length is not None and len(value) != self.length:
            return f"has {len(value)} values"
        if not all(self._in_range(item) for item in items if type(item) in (int, float)):
            return "is out of range"
        if self.total is not None and not math.isclose(sum(value), self.total, abs_tol=1e-9):
            return f"sums to {sum(value):g}"
        return ""

    def _in_range(self, value: float) -> bool:
        if not math.isfinite(value) if isinstance(value, float) else abs(value) > MAX_INTEGER:
            return False
        above = self.low < value if self.open_low else self.low <= value
        return above and (value < self.high if self.open_high else value <= self.high)


def _parse_clause(text: str) -> dict | None:
    """The fields of a `Constraint` that one clause sets; None if the clause is not a constraint."""
    if text == "not empty":
        return {"not_empty": True}
    if text == 'YYYY-MM-DD or ""':
        return {"is_date": True}
    if match := re.fullmatch(r"one of (.+)", text):
        return {"choices": tuple(match[1].split(", "))}
    if match := re.fullmatch(r"(\d+) values", text):
        return {"length": int(match[1])}
    if match := re.fullmatch(rf"sum {NUMBER}", text):
        return {"total": float(match[1])}
    if (match := re.fullmatch(rf"(> )?{NUMBER}(?: or more| to (< )?{NUMBER})?", text)) and text != match[2]:
        above, low, below, high = match.groups()
        ends = {"open_low": bool(above), "open_high": bool(below)}
        return {"low": ast.literal_eval(low), "high": ast.literal_eval(high) if high else math.inf} | ends
    return None


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``name: annotation = default  # help``.

    An experiment names it ``stage.name``. The help is a description, then the constraint.
    """

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

        Text is taken as typed. Items of a list are separated by commas, also without brackets; a list in brackets and
        a mapping are YAML, in which quotes protect commas.
        """
        tree = text
        try:
            if self.type == dict[str, str]:
                tree = read_yaml(text if text.lstrip().startswith("{") else f"{{{text}}}")
            elif self.type == list[dict[str, str]]:
                tree = text if text.endswith(".csv") else read_yaml(text if text.lstrip()[:1] == "[" else f"[{text}]")
            elif typing.get_origin(self.type) is list:
                tree = split_items(text)
        except ValueError as error:
            self._refuse(text, f"is not of type {self.annotation}: {error}")
        return self.read(tree)

    def read(self, tree: object) -> object:
        """A value of a file, as `read_yaml` returns it, checked (RequestError).

        A list of mappings may be the name of a CSV file, whose rows it then has.
        """
        if self.type == list[dict[str, str]] and isinstance(tree, str) and tree.endswith(".csv"):
            try:
                tree = _read_table(tree)
            except (OSError, ValueError, csv.Error) as error:
                self._refuse(tree, f"cannot be read as a CSV file in UTF-8 ({error})")
        try:
            value = _convert(tree, self.type)
        except ValueError:
            self._refuse(tree, f"is not of type {self.annotation}")
        return self.check(value)

    def check(self, value: object) -> object:
        """The value if it is allowed (else RequestError); an integer becomes a float where the type is float."""
        if not fits(value, self.type):
            self._refuse(value, f"is not of type {self.annotation}")
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            self._refuse(value, "is not valid UTF-8")
        if self.type is float and abs(value) <= MAX_INTEGER:
            value = float(value)
        if why := self.constraint.violation(value):
            self._refuse(value, why, did_you_mean(value, self.constraint.choices) if isinstance(value, str) else "")
        return value

    def _refuse(self, value: object, why: str, hint: str = "") -> typing.NoReturn:
        raise RequestError(
            f"{self.stage}.{self.name}: {shorten(value)} {why}. It needs {self.annotation}: {self.help}.{hint}"
        )


def fits(value: object, kind: object) -> bool:
    """Whether a Python value has a type; integers are floats too, and booleans are not numbers."""
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(fits(v, *typing.get_args(kind)) for v in value)
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)
    return type(value) in ((int, float) if kind is float else (kind,))


def defaults(stage: str) -> dict[str, object]:
    """The values of a stage's parameters where an experiment sets none."""
    return {name: parameter.default for name, parameter in declared(stage).items()}


@cache
def declared(stage: str) -> dict[str, Parameter]:
    """The parameters of a stage by name, as its notebook declares them, without ``run_name``.

    RequestError if they cannot be read, or lack one that the notebook of this version of titlesmith has.
    """
    path = notebook(stage)
    parameters, own = _read_declarations(stage, path), shipped(f"notebooks/{path.name}")
    if missing := own.is_file() and _read_declarations(stage, own).keys() - parameters.keys():
        raise RequestError(
            f"{path}: its parameters lack {', '.join(sorted(missing))}, which this titlesmith needs: copy the lines "
            "from the notebook of a new project (titlesmith init FOLDER)"
        )
    return parameters


def _read_declarations(stage: str, path: Path) -> dict[str, Parameter]:
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        lines = filter(None, map(DECLARATION.fullmatch, "".join(cell["source"]).splitlines()))
        return {
            name: Parameter(stage, name, annotation, ast.literal_eval(default), help or "")
            for name, annotation, default, help in (line.groups() for line in lines)
            if name != "run_name" and TYPES[annotation]
        }
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, StopIteration) as error:
        raise RequestError(f"{path}: its parameters cannot be read: {error}") from None


def _convert(tree: object, kind: object) -> object:
    """A tree of texts as a value of a type (ValueError if it is not one)."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if tree is None and kind is str:
        return ""
    if origin is list and isinstance(tree, list):
        return [_convert(item, *inner) for item in tree]
    if origin is dict and isinstance(tree, dict) and None not in tree.values():
        return {key: _convert(value, str) for key, value in tree.items()}
    if kind is str and isinstance(tree, dict) and len(tree) == 1:  # Deep: a study
        return ": ".join([*tree, _convert(*tree.values(), str)])
    if origin or not isinstance(tree, str):
        raise ValueError
    if kind is bool and tree.lower() not in BOOLEANS:
        raise ValueError
    return BOOLEANS[tree.lower()] if kind is bool else kind(tree)


def _read_table(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, by the names in its first line."""
    with (root() / name).open(encoding="utf-8-sig", newline="") as file:
        return [{key: text or "" for key, text in row.items() if key} for row in csv.DictReader(file)]


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
