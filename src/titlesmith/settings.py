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
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, cached_property
from pathlib import Path

import yaml

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean
from titlesmith.runs import notebook, root, shipped

KINDS = (str, int, float, bool, list[str], list[int], list[float], dict[str, str], list[dict[str, str]])
TYPES = {kind.__name__ if typing.get_origin(kind) is None else str(kind): kind for kind in KINDS}
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
MAX_INTEGER = 2**63 - 1
MAX_DEPTH = 20  # of lists and mappings in one another in YAML
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
        in_range = all(self.low <= item <= self.high for item in items if type(item) in (int, float))
        is_choice = not self.choices or value in self.choices
        return in_range and is_choice and all(RULES[rule](value) for rule in self.rules)


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

    def check(self, value: object) -> object:
        """The value as the parameter's type, if it is allowed (else RequestError).

        A text, as in an experiment or on the command line, may be a number or a boolean, items of a list separated by
        commas, or YAML of a list in brackets or of a mapping, in which quotes protect commas. A list of mappings may be
        the name of a CSV file, whose rows it then has. Other text is taken as typed.
        """
        why = hint = ""
        try:
            converted = _convert(self._read(value) if isinstance(value, str) else value, self.type)
            json.dumps(converted, ensure_ascii=False).encode()
            if self.constraint.allows(converted):
                return converted
            hint = did_you_mean(value, self.constraint.choices) if isinstance(value, str) else ""
        except (OSError, ValueError, OverflowError, csv.Error) as error:
            why = f": {str(error)[:200]}"
        name, needed = f"{self.stage}.{self.name}", f"It needs {self.annotation}: {self.help}"
        raise RequestError(f"{name}: {shorten(value)} is not allowed{why}. {needed}.{hint}")

    def _read(self, text: str) -> object:
        """A text as the tree that it stands for."""
        if self.type == dict[str, str]:
            return read_yaml(text if text.lstrip().startswith("{") else f"{{{text}}}")
        if self.type == list[dict[str, str]] and text.endswith(".csv"):
            with (root() / text).open(encoding="utf-8-sig", newline="") as file:
                return [{key: cell or "" for key, cell in row.items() if key} for row in csv.DictReader(file)]
        if self.type == list[dict[str, str]]:
            return read_yaml(text if text.lstrip().startswith("[") else f"[{text}]")
        return split_items(text) if typing.get_origin(self.type) is list else text


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
    if origin is dict and isinstance(value, dict):
        return {_convert(key, str): _convert(item, str) for key, item in value.items()}
    if kind is str and isinstance(value, dict) and len(value) == 1:  # Deep: a study
        return ": ".join([*value, _convert(*value.values(), str)])
    if kind is bool and isinstance(value, str) and value.lower() in BOOLEANS:
        return BOOLEANS[value.lower()]
    if type(value) is kind:
        return value
    if kind in (int, float) and type(value) in (int, str):
        return kind(value)
    raise ValueError(f"it is not of type {getattr(kind, '__name__', kind)}")


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
    """Leaves scalars as text, and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        counts = Counter(str(key.value) for key, _ in node.value)
        if (twice := max(counts, key=counts.get, default="")) and counts[twice] > 1:
            raise yaml.YAMLError(f"the key {shorten(twice)} is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> object:
    """YAML as a tree of str, list and dict in which every scalar is the text as written: ``On``, ``12:30``, ``null``.

    A ValueError of one line says why it is not one document, or that it is nested too deeply.
    """
    depth = 0
    try:
        for event in yaml.parse(text, _Loader):  # before a tree exists, which aliases could make exponentially large
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise yaml.YAMLError("it is nested too deeply")
            if isinstance(event, yaml.CollectionStartEvent) and event.anchor:
                raise yaml.YAMLError("an alias (*name) must be of a single value")
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        why = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ValueError(why[:200]) from None


def split_items(text: str) -> list:
    """The items of a list as typed: YAML in brackets, else texts between commas, such as ``[MASK], a``."""
    if text.startswith("[") and text.endswith("]"):
        with suppress(ValueError):  # such as [MASK] and [SEP]
            return read_yaml(text)
    return re.split(", ?", text) if text else []
