"""Texts on the terminal: what ``titlesmith generate`` reads and prints."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from titlesmith.corpus import Corpus, DocumentFormat
from titlesmith.corpus.template import Template, template
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError, shorten
from titlesmith.generate import Backend, GenerationSettings, generate, open_adapter, open_backend, requests, texts
from titlesmith.generate.nearest import Unknown
from titlesmith.generate.prompts import plain
from titlesmith.generate.relevance import relevance
from titlesmith.models import hub, limits
from titlesmith.runs import Run, existing
from titlesmith.settings import Parameter, declared, defaults

OWN = ("prefixes", "prompts")  # parameters that have options of their own
STAGE = "generate"
TEMPLATE = "alpaca"  # of adapters that titles are written with: alpaca-lora's, ChatGenTitle's
OPTIONS = {
    "run": (Annotated[Optional[str], typer.Argument(help="A run's name; none is needed with --adapter.")], None),
    "prefix": (Annotated[Optional[list[str]], typer.Option(help="A beginning; any number. Default: the run's.")], None),
    "title": (Annotated[Optional[str], typer.Option(help="Complete it, where the template takes a title.")], None),
    "abstract": (Annotated[Optional[str], typer.Option(metavar="FILE", help="Likewise; - for standard input.")], None),
    "field": (Annotated[Optional[list[str]], typer.Option(metavar="KEY=VALUE", help="Another field likewise.")], None),
    "adapter": (
        Annotated[
            Optional[Path], typer.Option(help="Draw from the model with this adapter, a folder as peft saves it.")
        ],
        None,
    ),
    "base": (
        Annotated[str, typer.Option(metavar="hf:NAME", help="The adapter's model. Default: the one that it names.")],
        "",
    ),
    "quantize": (
        Annotated[Literal["none", "8bit", "4bit"], typer.Option(help="How to hold that model on a GPU.")],
        "none",
    ),
    "template": (
        Annotated[Optional[str], typer.Option(help=f"The form of a prompt, where no run has one. Default: {TEMPLATE}")],
        None,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print a JSON object a text, as in texts.jsonl.")], False),
}


def command() -> typer.Typer:
    """The command, with an option for each parameter of notebook 04, where alone these are declared."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    parameters = {name: p for name, p in declared(STAGE).items() if name not in OWN}

    @_in_options({*parameters, *OPTIONS})
    def run(run, prefix, title, abstract, field, as_json, adapter, base, quantize, template, **values) -> None:
        given = {name: parameters[name].parse(text) for name, text in values.items() if isinstance(text, str)}
        given |= {name: value for name, value in values.items() if isinstance(value, bool)}
        given = {name: parameters[name].check(value) for name, value in given.items()}
        if given.get("beams", 1) > 1:  # which end with no more texts
            given.setdefault("count", given["beams"])
        fields = parse(field or [])
        fields |= {} if title is None else {"title": title}
        fields |= {} if abstract is None else {"abstract": read(abstract)}
        found = run and existing(run)
        if adapter is None:
            alone = {"--base": base, "--template": template, "--quantize": quantize != "none"}
            if wrong := [option for option, value in alone.items() if value]:
                raise RequestError(f"{wrong[0]} is of an adapter: give its folder with --adapter")
            if not found:
                raise RequestError("name a run, or give an adapter with --adapter FOLDER")
            source = Source.of_run(found)
        else:
            source = Source.of_adapter(adapter, base, quantize, template, found)
        write(source, given, prefix or [], fields, as_json)

    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=default, annotation=a) for name, (a, default) in OPTIONS.items()]
    options += [_option(parameter, kind) for parameter in parameters.values()]
    run.__signature__, run.__doc__ = inspect.Signature(options), write.__doc__.split("\n\n")[0]
    app.command()(run)
    return app


@contextmanager
def _in_options(names: set[str]) -> Iterator[None]:
    """Errors that begin with a notebook's parameter begin with the option of that name instead."""
    try:
        yield
    except RequestError as error:
        found = re.match(r"\w+\.(\w+):", str(error))
        if not found or found[1] not in names:
            raise
        raise RequestError(f"--{found[1].replace('_', '-')}:{str(error)[found.end() :]}") from None


def _option(parameter: Parameter, kind: object) -> inspect.Parameter:
    flag, name = parameter.type is bool, parameter.name.replace("_", "-")
    option = typer.Option(
        f"--{name}/--no-{name}" if flag else f"--{name}",
        *(["-n"] if name == "count" else []),
        metavar=None if flag else parameter.annotation.upper(),
        help=f"{parameter.help}. Default: the run's, or {parameter.default}",
        show_default=False,
    )
    annotation = Annotated[Optional[bool] if flag else Optional[str], option]
    return inspect.Parameter(parameter.name, kind, default=None, annotation=annotation)


@dataclass(frozen=True)
class Source:
    """What draws texts.

    Attributes
    ----------
    name
        What it is, in words.
    form
        What its documents look like.
    load
        Opens its back end, which may take a while.
    settings
        Parameters of notebook 04 that are not the defaults.
    nearest
        Finds the training texts most like a text; None for those of ``form``, a corpus.
    """

    name: str
    form: DocumentFormat
    load: Callable[[], Backend]
    settings: dict
    nearest: Unknown | None = None

    @classmethod
    def of_run(cls, run: Run) -> "Source":
        """A run's model (RunError where it has none)."""
        run.require("finetune")
        return cls(f"run {run.name}", Corpus(run), lambda: open_backend(run), run.record(STAGE).get("settings", {}))

    @classmethod
    def of_adapter(cls, adapter: Path, base: str, quantize: str, named: str | None, run: Run | None) -> "Source":
        """A model with an adapter that was trained elsewhere.

        Parameters
        ----------
        adapter, base, quantize
            As of `titlesmith.generate.open_adapter`.
        named
            The template; `TEMPLATE` where there is neither one nor a run.
        run
            Whose template, sampling and training texts to take; its vocabulary must be the model's.
        """
        if base and not hub.is_hub(base):
            raise RequestError(f"--base {shorten(base)}: an adapter needs a model of the transformers library, hf:NAME")
        if run and named:
            raise RequestError(
                f"--template {shorten(named)}: run {run.name} has a template of its own; leave one of the two out"
            )
        hub.check_installed()
        hub.check_adapter(adapter)
        limits.check_quantize(declared("finetune")["quantize"].check(quantize))
        chosen = template(named or TEMPLATE)
        base = base or hub.base_of(adapter)
        tokenizer = Tokenizer.load(hub.folder(base))

        def load() -> Backend:
            return open_adapter(base, adapter, quantize)

        if not run:
            name, form = f"the adapter in {adapter}", DocumentFormat(chosen, tokenizer)
            return cls(name, form, load, {"prefixes": [""], "held_out": 0}, Unknown())
        form, settings = Corpus(run), run.record(STAGE).get("settings", {})
        if form.tokenizer.vocabulary != tokenizer.vocabulary:
            raise RequestError(f"--adapter {adapter}: run {run.name} was not tokenized for {base}: leave the run out")
        return cls(f"run {run.name}", form, load, settings)


def write(source: Source, given: dict, prefixes: list[str], fields: dict[str, str], as_json: bool) -> None:
    """Draw texts from a run's model, or from an adapter, several prefixes at once, and print them as they come.

    What is to be said about them goes to standard error.

    Parameters
    ----------
    source
        What draws.
    given
        Parameters of notebook 04, in place of those that the run's texts were made with, or of the defaults.
    prefixes
        Beginnings; those of the run where there are none.
    fields
        Of the prompt, by name; where there are none, the run's prompts and those of held-out papers are completed.
    as_json
        Whether to print the lines of texts.jsonl.
    """
    corpus = source.form
    settings = defaults(STAGE) | source.settings | given
    if prefixes:
        settings["prefixes"] = prefixes
    if source.nearest and settings["held_out"]:
        raise RequestError("--held-out: papers are held out from a run's corpus, and no run is named")
    if fields or (source.nearest and corpus.has_prompt):
        settings |= {"prompts": [fields], "held_out": given.get("held_out", 0)}
        check_fields(corpus.template, fields, source.name)
    requested = requests(corpus, settings)
    for prefix in dict.fromkeys(settings["prefixes"]):
        if plain(prefix) != prefix:
            print(
                f"{shorten(prefix)} is continued as {shorten(plain(prefix))}: texts are single lines", file=sys.stderr
            )
    for known in relevance(corpus, settings["prefixes"]) if source.nearest is None else []:
        print(known, file=sys.stderr)
    rows = []
    backend = source.load()
    print(f"Generating on {backend.device}.", file=sys.stderr)
    written = generate(backend, corpus, requested, GenerationSettings.of(settings), source.nearest)
    for (prompt, prefix), group in groupby(written, key=lambda row: (row["prompt"], row["prefix"])):
        if not as_json:
            print("\n" + (" | ".join(filter(None, (_short(prompt), prefix))) or "no prefix"))
        for row in group:
            print(texts.line(row).rstrip("\n") if as_json else f"  {row['text']}{_mark(row)}", flush=True)
            rows.append(row)
    sys.stderr.writelines(texts.lacking(requested, rows, settings["count"]))


def read(path: str) -> str:
    """The text of a file, or of standard input where the path is ``-`` (RequestError where it is none in UTF-8)."""
    try:
        return sys.stdin.buffer.read().decode() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--abstract {shorten(path)} cannot be read as text in UTF-8: {error}") from None


def parse(fields: list[str]) -> dict[str, str]:
    """Fields that were given as ``key=value``."""
    pairs = [field.partition("=") for field in fields]
    for name, equals, value in pairs:
        if not (name and equals):
            raise RequestError(
                f"--field {shorten(name + equals + value)}: it needs the form key=value, such as category=eess.AS"
            )
    return {name: value for name, _, value in pairs}


def check_fields(template: Template, fields: dict[str, str], source: str) -> None:
    """Checks that the fields are those of the template's prompt (RequestError)."""
    takes = template.prompt_fields
    if not takes:
        raise RequestError(
            f"{source} only goes on from a beginning: it takes no {' and no '.join(_names(fields))}. "
            "Give a beginning with --prefix"
        )
    wrong = _names(name for name in fields if name not in takes)
    lacking = [name for name in takes if name not in fields]
    if wrong or lacking:
        said = [f"it takes no {name}" for name in wrong] + [f"{name} is missing: {_way(name)}" for name in lacking]
        written = ", ".join(template.completion_fields)
        raise RequestError(f"{source} writes {written} from {', '.join(takes)}: {'; '.join(said)}")


def _names(fields: Iterable[str]) -> list[str]:
    return [shorten(name)[1:-1] for name in fields]


def _way(name: str) -> str:
    return {"abstract": "--abstract FILE", "title": "--title TEXT"}.get(name, f"--field {name}=TEXT")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-35:]}"


def _mark(row: dict) -> str:
    marks = []
    similarity = row["nearest_similarity"] or 0
    if similarity == 1:
        marks.append(f"copy of {row['nearest_id']}")
    elif similarity >= 0.9:
        marks.append(f"near copy of {row['nearest_id']}")
    if not row["finished"]:
        marks.append("unfinished")
    return f"  [{', '.join(marks)}]" if marks else ""
