"""The ``titlesmith generate`` command: its options, and the texts that it prints."""

import inspect
import re
import sys
import textwrap
from itertools import groupby
from typing import Annotated, Optional

import typer

from titlesmith.cli.options import Adapter, Base, Quantize, TemplateName
from titlesmith.corpus.template import Template
from titlesmith.errors import RequestError, shorten
from titlesmith.generate import GenerationSettings, TextGenerator, requests, texts
from titlesmith.generate.prompts import plain, relevance
from titlesmith.generate.source import Source, open_adapter_source, open_source
from titlesmith.runs import open_run
from titlesmith.settings import Parameter, declared, defaults

STAGE = "generate"
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
    """A parameter of the notebook as an option whose text `Parameter.check` reads."""
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
        Optional[typer.FileText],
        typer.Option(
            metavar="FILE", encoding="utf-8", errors="surrogateescape", help="The prompt's abstract; - for stdin."
        ),
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
    # Parameters of the notebook, then the prompt's fields
    parameters = declared(STAGE)
    given = {name: parameters[name].check(value) for name, value in values.items() if value is not None}
    if given.get("beams", 1) > 1:  # a search returns at most one text for each beam
        given.setdefault("count", given["beams"])
    for text in field or []:
        if not re.match("[^=]+=", text):
            raise RequestError(f"--field {shorten(text)}: it needs the form key=value, such as category=eess.AS")
    fields = dict(text.split("=", 1) for text in field or []) | ({} if title is None else {"title": title})
    fields |= {"abstract": abstract.read()} if abstract else {}
    fields = {name: plain(text) for name, text in fields.items()}
    # The model
    if adapter:
        source = open_adapter_source(adapter, base, quantize, named, open_run(run) if run else None)
    elif base or named or quantize != "none":
        raise RequestError("--base, --template and --quantize need an adapter: name its folder with --adapter")
    elif run:
        source = open_source(run)
    else:
        raise RequestError("name a run, or an adapter with --adapter FOLDER")
    write(source, given, prefix or [], fields, as_json)


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
        _check_fields(corpus.template, fields, source.name)
    requested = requests(corpus, settings)
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


def _check_fields(template: Template, fields: dict[str, str], source: str) -> None:
    if not set(template.required_fields) <= fields.keys() <= set(template.prompt_fields):
        needed = ", ".join(template.required_fields) or "nothing but a beginning (--prefix)"
        given = ", ".join(shorten(name)[1:-1] for name in fields) or "nothing"
        remedy = "Set --title TEXT, --abstract FILE, and other fields with --field KEY=TEXT"
        raise RequestError(f"the prompt of {source} needs {needed}; given is {given}. {remedy}")


def _format_marks(row: dict) -> str:
    similarity = row["nearest_similarity"] or 0
    marks = [f"{'copy' if similarity == 1 else 'near copy'} of {row['nearest_id']}"] if similarity >= 0.9 else []
    marks += [] if row["finished"] else ["unfinished"]
    return f"  [{', '.join(marks)}]" if marks else ""
