"""Commands that publish runs: the book, comparisons, exports, the web page."""

from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from titlesmith.cli.options import Adapter, Base, Quantize, RunName, TemplateName
from titlesmith.errors import RequestError
from titlesmith.runs import open_run, project, replacing


def book(
    publish: Annotated[
        Optional[str],
        typer.Option(metavar="DIR|gh-pages", help="Also publish it, with the runs published there before."),
    ] = None,
    zip: Annotated[bool, typer.Option("--zip", help="Also write _build/book.zip, which needs no server.")] = False,
) -> None:
    """Build the book from all complete runs."""
    project()  # before slow imports
    from titlesmith.book import build
    from titlesmith.book import publish as publishing
    from titlesmith.cli import describe_commands

    built = publishing.publish(publish, describe_commands()) if publish else build.build(describe_commands())
    print(f"\nbook                   {', '.join(run.name for run in built.shown) or 'no run'}")
    for reason in built.omitted.values():
        print(f"omitted                {reason}")
    if zip:
        print(f"packed                 {build.pack(built)}")
    print(f"published              {publish}" if publish else f"open                   {built.page}")


def compare(
    run: Annotated[list[str], typer.Argument(help="Names of at least two runs.")],
    count: Annotated[int, typer.Option("-n", min=0, help="Number of texts of each run.")] = 10,
    html: Annotated[Optional[Path], typer.Option(help="Write a page to this file instead.")] = None,
) -> None:
    """Compare runs: the parameters that differ, the metrics, the texts."""
    from rich.console import Console

    from titlesmith.book import compare as comparing

    comparison = comparing.compare(comparing.open_reports(run), count)
    if html:
        with replacing(html.resolve()) as temporary:
            temporary.write_text(comparing.render_comparison(comparison), "utf-8")
        print(html)
    else:
        comparing.print_comparison(comparison, Console())


def export(
    run: RunName,
    to: Annotated[
        Literal["ctranslate2", "hf"], typer.Option(help="hf: for transformers; ctranslate2: int8, for generate.")
    ],
    out: Annotated[Optional[Path], typer.Option(help="A folder. Default: export/ in the run.")] = None,
) -> None:
    """Export a run's model to the format of another program."""
    from titlesmith.export import export

    print(f"exported to            {export(open_run(run), to, out)}")


def app(
    run: Annotated[Optional[str], typer.Argument(help="A run's name, or base.")] = None,
    adapter: Adapter = None,
    base: Base = "",
    quantize: Quantize = "none",
    template: TemplateName = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
) -> None:
    """Serve a web page and an HTTP API that generate texts with a run's model, with base, or with an adapter."""
    from titlesmith.app import serve
    from titlesmith.generate.source import open_adapter_source, open_source

    if bool(run) == bool(adapter):
        raise RequestError("app serves a run or an adapter: name a run, or a folder with --adapter FOLDER")
    source = open_adapter_source(adapter, base, quantize, template, None) if adapter else open_source(run)
    serve(source, host, port)


def study(
    run: Annotated[Optional[list[str]], typer.Argument(help="Names of runs.")] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Pairs, and single texts, of each run.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides which texts, and their order.")] = 1,
    out: Annotated[Path, typer.Option(help="The folder for the page and its key.")] = Path("study"),
    collect: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Print accuracy and agreement of the answers in this folder.")
    ] = None,
) -> None:
    """Make a page on which people tell generated texts from real ones, or collect their answers."""
    from titlesmith.book import study as studies

    if bool(run) == bool(collect):
        raise RequestError("study needs names of runs, or --collect DIR")
    if collect:
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        rows = studies.collect(collect)
        table = Table(*(Column(heading, overflow="fold") for heading in rows[0]))  # a name that is cut is none
        for row in rows:
            table.add_row(*(Text(str(value)) for value in row.values()))
        Console().print(table)
        return
    items = studies.write_study([open_run(name) for name in dict.fromkeys(run)], out, count, seed)
    print(f"{items} items              {out / 'index.html'}: publish it with {studies.SCRIPT}, without {studies.KEY}")
    print(f"then                   titlesmith study --collect {out}, with the exported answers in it")
