"""The ``titlesmith generate`` command: its options, and the texts that it prints."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Optional

import typer

from titlesmith.cli.options import Adapter, Base, Quantize, TemplateName
from titlesmith.corpus.template import Template
from titlesmith.errors import RequestError, shorten
from titlesmith.generate import GenerationSettings, TextGenerator, requests, texts
from titlesmith.generate.prompts import plain, relevance
from titlesmith.generate.source import Source, open_adapter_source, open_source
from titlesmith.runs import STAGES, open_run
from titlesmith.settings import Parameter, declared, defaults

STAGE = "generate"
PARAMETER = re.compile(rf"^(?:{'|'.join(STAGES)})\.(\w+):")
OTHER_OPTIONS = ("prefixes", "prompts")  # parameters set by --prefix, --title, --abstract and --field


def build_command() -> typer.Typer:
    """The command, with an option for each parameter that notebook 04 declares."""
    fixed = [p for p in inspect.signature(_run).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [_build_option(parameter) for name, parameter in declared(STAGE).items() if name not in OTHER_OPTIONS]

    def run(**values: object) -> None:
        _run(**values)

    run.__signature__, run.__doc__ = inspect.Signature([*fixed, *options]), _run.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(STAGE)(run)
    return app


def _build_option(parameter: Parameter) -> inspect.Parameter:
    """A parameter of the notebook as an option whose text `Parameter.parse` reads."""
    is_flag, name = parameter.type is bool, parameter.name.replace("_", "-")
    option = typer.Option(
        f"--{name}/--no-{name}" if is_flag else f"--{name}",
        *(["-n"] if name == "count" else []),
        metavar=None if is_flag else parameter.annotation.upper(),
        help=f"{parameter.help}. Default: the run's, or {parameter.default}",
        show_default=False,
    )
    annotation = Annotated[Optional[bool] if is_flag else Optional[str], option]
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _run(
    *,
    run: Annotated[Optional[str], typer.Argument(help="A run's name, or base: the model of titlesmith.")] = None,
    prefix: Annotated[Optional[list[str]], typer.Option(help="A beginning; repeatable. Default: the run's.")] = None,
    title: Annotated[Optional[str], typer.Option(help="The title that the prompt needs.")] = None,
    abstract: Annotated[
        Optional[str], typer.Option(metavar="FILE", help="The abstract that the prompt needs; - for standard input.")
    ] = None,
    field: Annotated[
        Optional[list[str]], typer.Option(metavar="KEY=VALUE", help="Another field of the prompt; repeatable.")
    ] = None,
    adapter: Adapter = None,
    base: Base = "",
    quantize: Quantize = "none",
    named: TemplateName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print lines of texts.jsonl.")] = False,
    **values: object,
) -> None:
    """Generate texts with a run's model, or with an adapter, from any number of prefixes, and print them."""
    with naming_options():
        # Parameters of the notebook, then the prompt's fields
        parameters = declared(STAGE)
        given = {name: parameters[name].parse(text) for name, text in values.items() if isinstance(text, str)}
        given |= {name: value for name, value in values.items() if isinstance(value, bool)}
        if given.get("beams", 1) > 1:  # a search returns at most one text for each beam
            given.setdefault("count", given["beams"])
        fields = parse_fields(field or []) | ({} if title is None else {"title": title})
        fields |= {} if abstract is None else {"abstract": read_text(abstract)}
        # The model
        if adapter:
            source = open_adapter_source(adapter, base, quantize, named, open_run(run) if run else None)
        elif base or named or quantize != "none":
            option = "--base" if base else "--template" if named else "--quantize"
            raise RequestError(f"{option} needs an adapter: name its folder with --adapter")
        elif run:
            source = open_source(run)
        else:
            raise RequestError("name a run, or an adapter with --adapter FOLDER")
        write(source, given, prefix or [], fields, as_json)


@contextmanager
def naming_options() -> Iterator[None]:
    """Replaces a notebook's parameter at the beginning of an error by the option of that name."""
    try:
        yield
    except RequestError as error:
        raise RequestError(PARAMETER.sub(lambda match: f"--{match[1].replace('_', '-')}:", str(error))) from None


def write(source: Source, given: dict, prefixes: list[str], fields: dict[str, str], as_json: bool) -> None:
    """Generates texts and prints each group when it is finished; remarks go to standard error.

    ``given`` are parameters that override the source's, as are ``prefixes``; ``fields`` of the prompt replace the run's
    prompts and those of held-out papers; ``as_json`` prints lines of texts.jsonl.
    """
    corpus = source.format
    settings = defaults(STAGE) | source.settings | given | ({"prefixes": prefixes} if prefixes else {})
    if source.nearest and settings["held_out"]:
        raise RequestError("--held-out: a run's corpus has held-out papers, and no run is named")
    if fields or (source.nearest and corpus.has_prompt):
        settings |= {"prompts": [fields], "held_out": given.get("held_out", 0)}
        check_fields(corpus.template, fields, source.name)
    requested = requests(corpus, settings)
    # Remarks on the prefixes
    for prefix in dict.fromkeys(settings["prefixes"]):
        if (line := plain(prefix)) != prefix:
            print(f"{shorten(prefix)} is continued as {shorten(line)}: texts are single lines", file=sys.stderr)
    for known in relevance(corpus, settings["prefixes"]) if source.nearest is None else []:
        print(known, file=sys.stderr)
    # Texts, in groups of one prompt and prefix
    print(f"Loading {source.name}.", file=sys.stderr)
    backend, rows = source.open(), []
    print(f"Generating on {backend.device}.", file=sys.stderr)
    generator = TextGenerator(backend, corpus, requested, GenerationSettings.of(settings), source.nearest)
    for (prompt, prefix), group in groupby(generator, key=lambda row: (row["prompt"], row["prefix"])):
        if not as_json:
            print("\n" + (" | ".join(filter(None, (textwrap.shorten(prompt, 100), prefix))) or "no prefix"))
        for row in group:
            print(texts.line(row).rstrip("\n") if as_json else f"  {row['text']}{_format_marks(row)}", flush=True)
            rows.append(row)
    sys.stderr.writelines(texts.lacking(requested, rows, settings["count"]))


def read_text(path: str) -> str:
    """The text of a file, or of standard input for ``-`` (RequestError if it is not UTF-8)."""
    try:
        return sys.stdin.buffer.read().decode() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--abstract {shorten(path)} cannot be read as text in UTF-8: {error}") from None


def parse_fields(fields: list[str]) -> dict[str, str]:
    """Fields in the form ``key=value``, by name (RequestError)."""
    for field in fields:
        if not re.match("[^=]+=", field):
            raise RequestError(f"--field {shorten(field)}: it needs the form key=value, such as category=eess.AS")
    return dict(field.split("=", 1) for field in fields)


def check_fields(template: Template, fields: dict[str, str], source: str) -> None:
    """Checks that the fields are those of the template's prompt (RequestError)."""
    problems = [f"{shorten(name)[1:-1]} is not part of it" for name in fields if name not in template.prompt_fields]
    problems += [f"{name} is missing" for name in template.required_fields if name not in fields]
    if problems:
        needed = ", ".join(template.required_fields) or "nothing but a beginning (--prefix)"
        remedy = "Set --title TEXT, --abstract FILE, and other fields with --field KEY=TEXT"
        raise RequestError(f"the prompt of {source} needs {needed}: {'; '.join(problems)}. {remedy}")


def _format_marks(row: dict) -> str:
    similarity = row["nearest_similarity"] or 0
    marks = [f"{'copy' if similarity == 1 else 'near copy'} of {row['nearest_id']}"] if similarity >= 0.9 else []
    marks += [] if row["finished"] else ["unfinished"]
    return f"  [{', '.join(marks)}]" if marks else ""
