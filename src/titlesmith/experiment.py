"""Experiments: files and command-line overrides that set the parameters of all stages, checked together."""

import os
import typing
from dataclasses import dataclass, replace
from pathlib import Path

from titlesmith import corpus as corpora
from titlesmith import harvest, models
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError, TitlesmithError, shorten
from titlesmith.evaluate import reference
from titlesmith.generate import prompts
from titlesmith.hints import did_you_mean, nearest
from titlesmith.runs import STAGES, root
from titlesmith.settings import declared
from titlesmith.yaml_text import read_yaml

SHARED = ("model", "seed")  # keys at the top of an experiment, given to every notebook that declares them
EMPTY = (None, "", "~", "null")  # of a section without keys


@dataclass(frozen=True)
class Experiment:
    """The settings of all five stages, checked: ``settings[stage][parameter]``.

    ``name`` is the default name of its runs. ``path`` is its file, if it has one. ``overrides`` are those of
    `read`.
    """

    name: str
    path: Path | None
    settings: dict[str, dict]
    overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = (), remarks: list[str] | None = None) -> "Experiment":
        """Reads an experiment file; ``overrides`` are ``section.key=value`` or ``model=...``, ``seed=...``.

        If the file is not a YAML mapping, a key is unknown, or a value is not allowed, it is a RequestError.
        ``remarks``, a list, gets the other errors of `check`, which are not raised then.
        """
        content = read_file(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} is not an experiment: it needs keys such as model:, seed:, harvest:, finetune:")
        # The file: the shared keys at its top, then a section for each stage
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
                _check_name(section, SHARED, label, "; others need their section, such as finetune.steps=100")
                shared[section] = declared("finetune")[section].parse(text)
            else:
                _check_name(section, STAGES, f"{label}section ")
                _check_name(key, declared(section), f"{label}{section}.")
                if key == "path" and text and os.path.lexists(text):  # the shell's path; runs see it from the project
                    text = os.path.relpath(Path(text).resolve(), root())
                sections.setdefault(section, {})[key] = declared(section)[key].parse(text)
            kept.append(f"{where}={text}")
        return replace(cls.make(path.stem, sections, shared, path, remarks), overrides=tuple(kept))

    @classmethod
    def make(
        cls,
        name: str,
        sections: dict[str, dict],
        shared: dict,
        path: Path | None = None,
        remarks: list[str] | None = None,
    ) -> "Experiment":
        """Fills sections with the notebooks' defaults and checks everything; ``remarks`` as in `read`."""
        settings = {}
        for stage in STAGES:
            given = shared | sections.get(stage, {})
            settings[stage] = {k: p.check(given.get(k, p.default)) for k, p in declared(stage).items()}
        experiment = cls(name, path, settings)
        experiment.check(remarks)
        return experiment

    def check(self, remarks: list[str] | None = None) -> None:
        """Checks parameters of several stages together: files exist, rows fit the model.

        The first error is a RequestError; or else ``remarks``, a list, gets all errors that it lacks.
        """
        for check in (self._check_papers, self._check_training, self._check_evaluation, self._check_texts):
            try:
                check()
            except TitlesmithError as error:
                if remarks is None:
                    raise
                remarks += [str(error)] if str(error) not in remarks else []

    def _check_papers(self) -> None:
        harvest.check(self.settings["harvest"])

    def _check_training(self) -> None:
        corpora.check(self.settings["corpus"], self.settings["harvest"])
        training, corpus = self.settings["finetune"], self.settings["corpus"]
        if corpus["model"] != training["model"]:
            both = f"{corpus['model']!r} and {training['model']!r}"
            raise RequestError(f"corpus.model and finetune.model are {both}: set model: once, at the top")
        models.check_training(training)
        context, block_size = models.context(training["model"]), training["block_size"]
        if block_size > context:
            raise RequestError(f"finetune.block_size: {block_size} exceeds the model's context of {context}")

    def _check_evaluation(self) -> None:
        reference.check(self.settings["evaluate"], self.settings["finetune"]["model"])

    def _check_texts(self) -> None:
        generate = self.settings["generate"]
        prompts.check(template(self.settings["corpus"]["template"]), generate)
        context = models.context(self.settings["finetune"]["model"])
        max_words = max(len(prefix.split()) for prefix in generate["prefixes"])  # a word is a token at least
        if 1 + max_words + generate["max_tokens"] > context:
            raise RequestError(
                f"generate.max_tokens: {generate['max_tokens']} tokens after a prefix of {max_words} words exceed the "
                f"model's context of {context}"
            )


def read_file(path: Path) -> object:
    """A YAML file as `read_yaml` returns it (RequestError)."""
    try:
        return read_yaml(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as YAML: {error}") from None


def find(path: str, pattern: str = "*.yml") -> Path:
    """An experiment's file: a path, or a name below ``experiments/``; a message names the files of this ``pattern``."""
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


def _check_name(name: str, names: typing.Iterable[str], where: str, remedy: str = "") -> None:
    """Checks that a section or key exists; else names the nearest, or the section that has it (RequestError)."""
    if name in names:
        return
    hint = did_you_mean(name, names)
    if not hint:
        everything = {key for stage in STAGES for key in declared(stage) if key not in SHARED}
        key = name if name in everything else nearest(name, everything, 0.7)
        with_section = [f"{stage}.{key}" for stage in STAGES if key in declared(stage)]
        hint = f" Did you mean {' or '.join(with_section)}?" if with_section else ""
    raise RequestError(f"{where}{shorten(name)[1:-1]} is unknown.{hint} There are: {', '.join(names)}{remedy}")
