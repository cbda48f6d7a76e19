"""Experiments: what the notebooks' parameters are, and files that set them.

The ``parameters`` cell of a notebook is the only list of that stage's parameters. papermill reads names, annotated
types, defaults and help from it; the end of the help says what values are allowed, in words that people and `check`
both read: ``in [1, inf)``, ``each in (0, 1)``, ``sum 1``, ``one of date, random``, ``not empty``, ``YYYY-MM-DD``.
"""

import ast
import math
import os
import re
import typing
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml
from papermill import inspect_notebook

from titlesmith import corpus as corpora
from titlesmith import harvest, models
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError
from titlesmith.generate import prompts
from titlesmith.runs.record import STAGES, notebook, root

SHARED = ("model", "seed")  # keys at the top of an experiment, given to every notebook that declares them
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}
INTERVAL = re.compile(r"(each )?in ([\[(])(\S+), (\S+)([\])])")
CHOICE = re.compile(r"one of ([\w, -]+)")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Attributes
    ----------
    stage, name
        Where it stands in an experiment: ``stage.name``.
    annotation
        Its type as written, such as ``list[float]``.
    default
        Its value where the experiment sets none.
    help
        The comment behind it, which ends with what is allowed.
    """

    stage: str
    name: str
    annotation: str
    default: object
    help: str

    @property
    def type(self) -> object:
        """The annotation as a type."""
        return eval(self.annotation, {"__builtins__": {}}, TYPES)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the greatest value that its help allows, whether or not they are allowed themselves."""
        found = INTERVAL.search(self.help)
        if not found:
            return None
        return tuple(float(v) if self.type is float or v == "inf" else int(v) for v in found.groups()[2:4])

    def parse(self, text: str) -> object:
        """A value typed on the command line: text as it is, else YAML, lists and mappings without brackets too."""
        if self.type is str:
            return text
        opening, closing = {list: "[]", dict: "{}"}.get(typing.get_origin(self.type), ("", ""))
        if not text.lstrip().startswith(opening):
            text = f"{opening}{text}{closing}"
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = None
        return text if value is None else value  # refused as no value of the type

    def check(self, value: object) -> object:
        """The value as the notebook takes it (a date as text, a whole number as float where one is declared).

        Raises
        ------
        RequestError
            It has another type, or is outside what is allowed.
        """
        if isinstance(value, date):
            value = value.isoformat()
        if self.type is float and isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # YAML takes 1e-4 for text
        if not fits(value, self.type):
            self._refuse(value, f"is no {self.annotation}")
        if self.type is float:
            value = float(value)
        items = value if isinstance(value, list) else [value]
        if (m := INTERVAL.search(self.help)) and not all(_inside(v, *m.groups()[1:]) for v in items):
            self._refuse(value, "is out of range")
        if (m := CHOICE.search(self.help)) and value not in m[1].split(", "):
            near = get_close_matches(str(value), m[1].split(", "), 1, 0.5)
            self._refuse(value, "is no choice", f". Did you mean {near[0]}?" if near else "")
        if "three" in self.help and len(value) != 3:
            self._refuse(value, f"has {len(value)} values")
        if "sum 1" in self.help and not math.isclose(sum(value), 1, abs_tol=1e-9):
            self._refuse(value, f"sums to {sum(value):g}")
        if "not empty" in self.help and not value:
            self._refuse(value, "is empty")
        if "YYYY-MM-DD" in self.help and value and not _is_date(value):
            self._refuse(value, "is no date")
        return value

    def _refuse(self, value: object, why: str, hint: str = "") -> typing.NoReturn:
        raise RequestError(f"{self.stage}.{self.name}: {value!r} {why}. It takes {self.annotation}: {self.help}{hint}")


def fits(value: object, kind: object) -> bool:
    """Whether a value read from YAML has a type; whole numbers are floats too, and booleans are no numbers."""
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(fits(v, *typing.get_args(kind)) for v in value)
    if typing.get_origin(kind) is dict:
        of_key, of_value = typing.get_args(kind)
        return isinstance(value, dict) and all(fits(k, of_key) and fits(v, of_value) for k, v in value.items())
    return type(value) in ((int, float) if kind is float else (kind,))


@cache
def declared(stage: str) -> dict[str, Parameter]:
    """The parameters of a stage by name, as its notebook declares them, without ``run_name``."""
    try:
        return {
            p["name"]: Parameter(stage, p["name"], p["inferred_type_name"], ast.literal_eval(p["default"]), p["help"])
            for p in inspect_notebook(str(notebook(stage))).values()
            if p["name"] != "run_name"
        }
    except (OSError, ValueError, SyntaxError) as error:
        raise RequestError(f"{notebook(stage)}: its parameters cannot be read: {error}") from None


@dataclass(frozen=True)
class Experiment:
    """The settings of all five stages, checked.

    Attributes
    ----------
    name
        What a run of it is called where no other name is given.
    path
        Its file; None where the notebooks' defaults are all there is.
    settings
        For each stage, every parameter that its notebook declares, by name.
    overrides
        What was asked for beside the file, as `read` takes it.
    """

    name: str
    path: Path | None
    settings: dict[str, dict]
    overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = ()) -> "Experiment":
        """Reads an experiment file; ``overrides`` are ``section.key=value`` or ``model=...``, ``seed=...``.

        Raises
        ------
        RequestError
            The file is missing or no YAML mapping; a key is unknown, or a value not allowed. Nothing has run.
        """
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RequestError(f"{path} cannot be read as an experiment: {error}") from None
        if not isinstance(content, dict):
            raise RequestError(f"{path} is no experiment: it needs keys such as model:, seed:, harvest:, finetune:")
        shared = {k: content.pop(k) for k in SHARED if k in content}
        content = {section: {} if values is None else values for section, values in content.items()}
        for section, values in content.items():
            _known(section, (*SHARED, *STAGES), f"{path}: section ")
            if not isinstance(values, dict):
                raise RequestError(f"{path}: {section}: needs keys and values below it, not {values!r}")
            for key in values:
                _known(key, declared(section), f"{path}: {section}.")
        asked = []
        for override in overrides:
            where, equals, text = override.partition("=")
            section, dot, key = where.partition(".")
            if not equals:
                raise RequestError(f"-p {override}: it needs the form section.key=value, such as finetune.steps=100")
            if dot:
                _known(section, STAGES, f"-p {override}: section ")
                _known(key, declared(section), f"-p {override}: {section}.")
                if key == "path" and text and Path(text).exists():  # as the shell sees it; runs see it from the project
                    text = os.path.relpath(Path(text).resolve(), root())
                content[section] = content.get(section, {}) | {key: declared(section)[key].parse(text)}
            else:
                places = [f"{stage}.{section}" for stage in STAGES if section in declared(stage)]
                if section not in SHARED and places:
                    raise RequestError(
                        f"-p {override}: did you mean {' or '.join(places)}? Keys other than {' and '.join(SHARED)} "
                        "need their section"
                    )
                _known(section, SHARED, f"-p {override}: ", f"; other keys need their section: {STAGES[2]}.steps=100")
                shared[section] = declared("finetune")[section].parse(text)
            asked.append(f"{where}={text}")
        return replace(cls.make(path.stem, content, shared, path), overrides=tuple(asked))

    @classmethod
    def make(cls, name: str, sections: dict[str, dict], shared: dict, path: Path | None = None) -> "Experiment":
        """Fills sections with the notebooks' defaults and checks the whole."""
        settings = {}
        for stage in STAGES:
            given = shared | sections.get(stage, {})
            settings[stage] = {k: p.check(given.get(k, p.default)) for k, p in declared(stage).items()}
        experiment = cls(name, path, settings)
        experiment.check()
        return experiment

    def check(self) -> None:
        """What parameters must fulfil together (RequestError): the files are there and rows fit the model."""
        harvest.check(self.settings["harvest"])
        corpora.check(self.settings["corpus"], self.settings["harvest"])
        model, corpus, generate = (self.settings[stage] for stage in ("finetune", "corpus", "generate"))
        if corpus["model"] != model["model"]:
            both = f"{corpus['model']!r} and {model['model']!r}"
            raise RequestError(f"corpus.model and finetune.model are {both}: set model: once, at the top")
        models.check_training(model)
        context = models.context(model["model"])
        if model["block_size"] > context:
            raise RequestError(f"finetune.block_size: {model['block_size']} exceeds the model's context of {context}")
        prompts.check(template(corpus["template"]), generate)
        longest = max(len(prefix.split()) for prefix in generate["prefixes"])  # a word is a token at least
        if 1 + longest + generate["max_tokens"] > context:
            raise RequestError(
                f"generate.max_tokens: {generate['max_tokens']} tokens behind a prefix of {longest} words exceed the "
                f"model's context of {context}"
            )


def find(path: str, pattern: str = "*.yml") -> Path:
    """An experiment's file: as given, or by its name below ``experiments/``; ``pattern`` is what else to name there."""
    folder = root() / "experiments"
    for candidate in (Path(path), folder / path, folder / f"{path}.yml"):
        if candidate.is_file():
            return candidate
    names = {p.stem: p.relative_to(folder).with_suffix("").as_posix() for p in sorted(folder.glob(pattern))}
    near = get_close_matches(Path(path).stem, names, 1, 0.75)
    hint = f"did you mean {names[near[0]]}? " if near else ""
    raise RequestError(f"there is no experiment {path}; {hint}{folder} has {', '.join(names.values()) or 'none'}")


def _known(name: object, names: typing.Iterable[str], where: str, more: str = "") -> None:
    if name not in names:
        near = get_close_matches(str(name), names, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise RequestError(f"{where}{name} is unknown{hint} There are: {', '.join(names)}{more}")


def _inside(value: float, left: str, low: str, high: str, right: str) -> bool:
    above = float(low) <= value if left == "[" else float(low) < value
    below = value <= float(high) if right == "]" else value < float(high)
    return above and below


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
