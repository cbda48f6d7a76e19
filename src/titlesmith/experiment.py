"""Experiments: files and command-line overrides that set the parameters of all stages, checked together."""

import os
import typing
from dataclasses import dataclass, replace
from pathlib import Path

from titlesmith import corpus as corpora
from titlesmith import harvest, models
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError, shorten
from titlesmith.generate import prompts
from titlesmith.hints import did_you_mean, nearest
from titlesmith.runs import STAGES, root
from titlesmith.settings import declared
from titlesmith.yaml_text import read_yaml

SHARED = ("model", "seed")  # keys at the top of an experiment, given to every notebook that declares them
EMPTY = (None, "", "~", "null")  # of a section without keys


@dataclass(frozen=True)
class Experiment:
    """The settings of all five stages, checked.

    Attributes
    ----------
    name
        The default name of its runs.
    path
        Its file; None if only the notebooks' defaults apply.
    settings
        For each stage, every parameter that its notebook declares, by name.
    overrides
        The command-line overrides, as in `read`.
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
            The file is missing or not a YAML mapping, a key is unknown, or a value is not allowed. Nothing has run.
        """
        content = read_file(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} is not an experiment: it needs keys such as model:, seed:, harvest:, finetune:")
        # The file: the shared keys at its top, then a section a stage
        shared = {key: declared("finetune")[key].read(content.pop(key)) for key in SHARED if key in content}
        sections: dict[str, dict] = {}
        for section, values in content.items():
            values = {} if values in EMPTY else values
            _check_name(section, (*SHARED, *STAGES), f"{path}: section ")
            if not isinstance(values, dict):
                raise RequestError(f"{path}: {section}: needs keys and values below it, not {shorten(values)}")
            for key in values:
                _check_name(key, declared(section), f"{path}: {section}.")
            sections[section] = {key: declared(section)[key].read(value) for key, value in values.items()}
        # The command line overrides the file
        kept = []
        for override in overrides:
            where, equals, text = override.partition("=")
            section, dot, key = where.partition(".")
            label = f"-p {shorten(override)}: "
            if not equals:
                raise RequestError(f"{label}it needs the form section.key=value, such as finetune.steps=100")
            if not dot:
                _check_shared(section, label)
                shared[section] = declared("finetune")[section].parse(text)
            else:
                _check_name(section, STAGES, f"{label}section ")
                _check_name(key, declared(section), f"{label}{section}.")
                if key == "path" and text and os.path.lexists(text):  # the shell's path; runs see it from the project
                    text = os.path.relpath(Path(text).resolve(), root())
                sections.setdefault(section, {})[key] = declared(section)[key].parse(text)
            kept.append(f"{where}={text}")
        return replace(cls.make(path.stem, sections, shared, path), overrides=tuple(kept))

    @classmethod
    def make(cls, name: str, sections: dict[str, dict], shared: dict, path: Path | None = None) -> "Experiment":
        """Fills sections with the notebooks' defaults and checks everything."""
        settings = {}
        for stage in STAGES:
            given = shared | sections.get(stage, {})
            settings[stage] = {k: p.check(given.get(k, p.default)) for k, p in declared(stage).items()}
        experiment = cls(name, path, settings)
        experiment.check()
        return experiment

    def check(self) -> None:
        """Checks parameters of several stages together (RequestError): files exist, rows fit the model."""
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
                f"generate.max_tokens: {generate['max_tokens']} tokens after a prefix of {longest} words exceed the "
                f"model's context of {context}"
            )


def read_file(path: Path) -> object:
    """A YAML file as `read_yaml` returns it (RequestError)."""
    try:
        return read_yaml(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as YAML: {error}") from None


def find(path: str, pattern: str = "*.yml") -> Path:
    """An experiment's file: as given, or by its name below ``experiments/``; ``pattern`` is what else to name there."""
    folder = root() / "experiments"
    for candidate in (Path(path), folder / path, folder / f"{path}.yml"):
        if os.path.lexists(candidate) and candidate.is_file():
            return candidate
    names = {p.stem: p.relative_to(folder).with_suffix("").as_posix() for p in sorted(folder.glob(pattern))}
    near = nearest(Path(path).stem, names, 0.75)
    hint = f"did you mean {names[near]}? " if near else ""
    raise RequestError(
        f"there is no experiment {shorten(path)}; {hint}{folder} has {', '.join(names.values()) or 'none'}"
    )


def _check_name(name: str, names: typing.Iterable[str], where: str) -> None:
    """Checks that a section or key exists; else names the nearest, or the section that has it (RequestError)."""
    if name in names:
        return
    hint = did_you_mean(name, names)
    if not hint and (full := _full_names(name)):
        hint = f" Did you mean {' or '.join(full)}?"
    raise RequestError(f"{where}{shorten(name)[1:-1]} is unknown.{hint} There are: {', '.join(names)}")


def _check_shared(name: str, label: str) -> None:
    """Checks a key without a section (RequestError)."""
    if name in SHARED:
        return
    full = _full_names(name)
    hint = f" Did you mean {' or '.join(full)}?" if full else did_you_mean(name, SHARED)
    raise RequestError(
        f"{label}{shorten(name)[1:-1]} is unknown.{hint} Keys other than {' and '.join(SHARED)} need their section, "
        "such as finetune.steps=100"
    )


def _full_names(name: str) -> list[str]:
    """The parameters, with their sections, that are called ``name``, or else what it is most likely meant to be."""
    everything = {key for stage in STAGES for key in declared(stage) if key not in SHARED}
    meant = name if name in everything else nearest(name, everything, 0.7)
    return [f"{stage}.{meant}" for stage in STAGES if meant in declared(stage)]
