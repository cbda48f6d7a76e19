"""Texts on the terminal: what ``titlesmith generate`` reads and prints."""

import inspect
import sys
from itertools import groupby
from pathlib import Path
from typing import Annotated, Optional

import typer

from titlesmith import engines, experiment, texts
from titlesmith.corpus import Corpus
from titlesmith.corpus.template import Template
from titlesmith.errors import RequestError
from titlesmith.prompts import plain
from titlesmith.relevance import relevance
from titlesmith.run import Run, existing

OWN = ("prefixes", "prompts")  # parameters that have options of their own
STAGE = "generate"
OPTIONS = {
    "run": (Annotated[str, typer.Argument(help="A run's name.")], inspect.Parameter.empty),
    "prefix": (Annotated[Optional[list[str]], typer.Option(help="A beginning; any number. Default: the run's.")], None),
    "title": (Annotated[Optional[str], typer.Option(help="Complete it, where the template takes a title.")], None),
    "abstract": (Annotated[Optional[str], typer.Option(metavar="FILE", help="Likewise; - for standard input.")], None),
    "field": (Annotated[Optional[list[str]], typer.Option(metavar="KEY=VALUE", help="Another field likewise.")], None),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print a JSON object a text, as in texts.jsonl.")], False),
}


def command() -> typer.Typer:
    """The command, with an option for each parameter of notebook 04, where alone these are declared."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    declared = {name: p for name, p in experiment.declared(STAGE).items() if name not in OWN}

    def run(run, prefix, title, abstract, field, as_json, **values) -> None:
        given = {name: declared[name].parse(text) for name, text in values.items() if isinstance(text, str)}
        given |= {name: value for name, value in values.items() if isinstance(value, bool)}
        given = {name: declared[name].check(value) for name, value in given.items()}
        fields = parse(field or [])
        fields |= {} if title is None else {"title": title}
        fields |= {} if abstract is None else {"abstract": read(abstract)}
        generate(existing(run), given, prefix or [], fields, as_json)

    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(name, kind, default=default, annotation=a) for name, (a, default) in OPTIONS.items()]
    options += [_option(parameter, kind) for parameter in declared.values()]
    run.__signature__, run.__doc__ = inspect.Signature(options), generate.__doc__.split("\n\n")[0]
    app.command()(run)
    return app


def _option(parameter: experiment.Parameter, kind: object) -> inspect.Parameter:
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


def generate(run: Run, given: dict, prefixes: list[str], fields: dict[str, str], as_json: bool) -> None:
    """Draw texts from a run's model, several prefixes at once, and print them as they come.

    What is to be said about them goes to standard error.

    Parameters
    ----------
    run
        Its model draws.
    given
        Parameters of notebook 04, in place of those that the run's texts were made with, or of the defaults.
    prefixes
        Beginnings; those of the run where there are none.
    fields
        Of the prompt, by name; where there are none, the run's prompts and those of held-out papers are completed.
    as_json
        Whether to print the lines of texts.jsonl.
    """
    run.require("finetune")
    corpus = Corpus(run)
    defaults = {name: parameter.default for name, parameter in experiment.declared(STAGE).items()}
    settings = defaults | run.record(STAGE).get("settings", {}) | given
    if prefixes:
        settings["prefixes"] = prefixes
    if fields:
        settings |= {"prompts": [fields], "held_out": given.get("held_out", 0)}
        check_fields(corpus.template, fields, run.name)
    asked = texts.requests(corpus, settings)
    for prefix in dict.fromkeys(settings["prefixes"]):
        if plain(prefix) != prefix:
            print(f"{prefix!r} is continued as {plain(prefix)!r}: texts are single lines", file=sys.stderr)
    for known in relevance(corpus, settings["prefixes"]):
        print(known, file=sys.stderr)
    rows = []
    drawn = texts.draw(engines.load(run), corpus, asked, settings)
    for (prompt, prefix), group in groupby(drawn, key=lambda row: (row["prompt"], row["prefix"])):
        if not as_json:
            print("\n" + (" | ".join(filter(None, (_short(prompt), prefix))) or "no prefix"))
        for row in group:
            print(texts.line(row).rstrip("\n") if as_json else f"  {row['text']}{_mark(row)}", flush=True)
            rows.append(row)
    sys.stderr.writelines(texts.lacking(asked, rows, settings["count"]))


def read(path: str) -> str:
    """The text of a file, or of standard input where the path is ``-`` (RequestError where it is none in UTF-8)."""
    try:
        return sys.stdin.buffer.read().decode() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--abstract {path} cannot be read as text in UTF-8: {error}") from None


def parse(fields: list[str]) -> dict[str, str]:
    """Fields that were given as ``key=value``."""
    pairs = [field.partition("=") for field in fields]
    for name, equals, value in pairs:
        if not (name and equals):
            raise RequestError(
                f"--field {name + equals + value}: it needs the form key=value, such as category=eess.AS"
            )
    return {name: value for name, _, value in pairs}


def check_fields(template: Template, fields: dict[str, str], run: str) -> None:
    """Checks that the fields are those of the template's prompt (RequestError)."""
    takes = Template("", template.prompt).fields
    if not takes:
        raise RequestError(
            f"run {run} writes {template.completion} from no prompt: it takes no {' and no '.join(fields)}. "
            "Give a beginning with --prefix"
        )
    wrong = [name for name in fields if name not in takes]
    lacking = [name for name in takes if name not in fields]
    if wrong or lacking:
        said = [f"it takes no {name}" for name in wrong] + [f"{name} is missing: {_way(name)}" for name in lacking]
        raise RequestError(f"run {run} writes {template.completion} from {', '.join(takes)}: {'; '.join(said)}")


def _way(name: str) -> str:
    return {"abstract": "--abstract FILE", "title": "--title TEXT"}.get(name, f"--field {name}=TEXT")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-35:]}"


def _mark(row: dict) -> str:
    marks = []
    if row["nearest_similarity"] == 1:
        marks.append(f"copy of {row['nearest_id']}")
    elif row["nearest_similarity"] >= 0.9:
        marks.append(f"near copy of {row['nearest_id']}")
    if not row["finished"]:
        marks.append("unfinished")
    return f"  [{', '.join(marks)}]" if marks else ""
