"""Experiments: files and command-line overrides that set the parameters of all stages, checked together."""

import os
from dataclasses import dataclass
from pathlib import Path

from titlesmith import corpus as corpora
from titlesmith import harvest as sources
from titlesmith import models
from titlesmith.corpus.template import template
from titlesmith.errors import RequestError, TitlesmithError, shorten
from titlesmith.evaluate import reference
from titlesmith.generate import prompts
from titlesmith.hints import nearest
from titlesmith.runs import STAGES, root
from titlesmith.settings import Parameter, declared, read_yaml

SHARED = ("model", "seed")  # keys at the top of an experiment, given to every notebook that declares them


@dataclass(frozen=True)
class Experiment:
    """The settings of all five stages, checked: ``settings[stage][parameter]``; ``name`` is that of its runs."""

    name: str
    path: Path | None
    settings: dict[str, dict]
    overrides: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, overrides: tuple[str, ...] = (), remarks: list[str] | None = None) -> "Experiment":
        """Reads an experiment file; ``overrides`` are ``section.key=value`` or ``model=...``, ``seed=...``.

        If the file is not a YAML mapping, a key is unknown, or a value is not allowed, it is a RequestError.
        ``remarks``, a list, gets errors of files and models that are missing, which are not raised then.
        """
        content = read_file(path)
        if not isinstance(content, dict):
            raise RequestError(f"{path} is not an experiment: it needs keys such as model:, seed:, harvest:, finetune:")
        # The file: the shared keys at its top, and a section for each stage
        given = {}
        for section, values in content.items():
            if not values:  # all keys of the section are comments
                continue
            keys = {f"{section}": values}
            if isinstance(values, dict):
                keys = {f"{section}.{key}": value for key, value in values.items()}
            elif section in STAGES:
                raise RequestError(f"{path}: {section}: needs keys and values below it, not {shorten(values)}")
            given |= {key: find_parameter(key, f"{path}: ").check(value) for key, value in keys.items()}
        # The command line overrides the file
        kept = []
        for override in overrides:
            key, equals, text = override.partition("=")
            if not equals:
                raise RequestError(f"-p {shorten(override)}: it needs the form section.key=value: finetune.steps=100")
            parameter = find_parameter(key)
            if parameter.name == "path" and text and os.path.lexists(text):  # the shell's path, not the project's
                text = os.path.relpath(Path(text).resolve(), root())
            given[key] = parameter.check(text)
            kept.append(f"{key}={text}")
        return cls.make(path.stem, given, path, tuple(kept), remarks)

    @classmethod
    def make(
        cls,
        name: str,
        given: dict[str, object],
        path: Path | None = None,
        overrides: tuple[str, ...] = (),
        remarks: list[str] | None = None,
    ) -> "Experiment":
        """Adds the notebooks' defaults to ``given``, values by ``section.key`` or shared key, and checks everything."""
        settings = {stage: {} for stage in STAGES}
        for stage, values in settings.items():
            for key, p in declared(stage).items():
                values[key] = p.check(given.get(f"{stage}.{key}", given.get(key, p.default)))
        for check in (lambda harvest, **_: sources.check(harvest), _check_models, _check_texts):
            try:
                check(**settings)
            except TitlesmithError as error:
                if remarks is None:
                    raise
                remarks += [str(error)] if str(error) not in remarks else []
        return cls(name, path, settings, overrides)


def _check_models(harvest: dict, corpus: dict, finetune: dict, evaluate: dict, **_: dict) -> None:
    corpora.check(corpus, harvest)
    if corpus["model"] != finetune["model"]:
        both = f"{corpus['model']!r} and {finetune['model']!r}"
        raise RequestError(f"corpus.model and finetune.model are {both}: set model: once, at the top")
    models.check_training(finetune)
    context, block_size = models.context(finetune["model"]), finetune["block_size"]
    if block_size > context:
        raise RequestError(f"finetune.block_size: {block_size} exceeds the model's context of {context}")
    reference.check(evaluate, finetune["model"])


def _check_texts(corpus: dict, finetune: dict, generate: dict, **_: dict) -> None:
    prompts.check(template(corpus["template"]), generate)
    context = models.context(finetune["model"])
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


def find_parameter(key: str, where: str = "") -> Parameter:
    """The parameter ``section.name``, ``model`` or ``seed``; else a RequestError that names the nearest."""
    known = {f"{stage}.{name}": parameter for stage in STAGES for name, parameter in declared(stage).items()}
    known |= {name: declared("finetune")[name] for name in SHARED}
    if key in known:
        return known[key]
    # The nearest name of the section, or of any section
    section, _, name = key.rpartition(".")
    section = nearest(section, STAGES) or section
    every = {full.rpartition(".")[2]: full for full in known}
    own = {full.rpartition(".")[2]: full for full in known if full.rpartition(".")[0] == section}
    near = every.get(name) or own.get(nearest(name, own)) or every.get(nearest(name, every, 0.7))
    hint = f" Did you mean {near}?" if near else ""
    raise RequestError(f"{where}{shorten(key)[1:-1]} is unknown.{hint} `titlesmith params` lists all")
