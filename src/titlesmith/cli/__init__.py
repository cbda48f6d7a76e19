"""The command line: one module for each group of commands, registered here."""

import codecs
import errno
import io
import json
import re
import signal
import sys
from types import FrameType
from typing import Annotated

import typer
from typer.core import TyperGroup

from titlesmith import __version__
from titlesmith.cli import books, models, runs, setup, sweeps, texts
from titlesmith.errors import InterruptError, RequestError, TitlesmithError, shorten
from titlesmith.interrupts import SIGNALS

# What a terminal's encoding lacks is escaped as in JSON, so that lines of --json stay JSON
codecs.register_error("titlesmith.escape", lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"titlesmith {__version__}")
        raise typer.Exit


@app.callback()
def titlesmith(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Fine-tune a language model on scientific papers and publish the results as a book."""


# A command's module imports what it needs inside of its function: this one starts in a fraction of a second
app.command("init")(setup.init)
app.command("doctor")(setup.doctor)
app.command("run")(runs.run)
app.command("finish")(runs.finish)
app.command("list")(runs.list_)
app.command("show")(runs.show)
app.command("params")(runs.params)
app.add_typer(models.app, name="models")
app.command("update")(runs.update)
app.command("daily")(runs.daily)
app.command("book")(books.book)
app.command("compare")(books.compare)
app.command("study")(books.study)
app.command("export")(books.export)
app.command("generate", **texts.ANY_OPTIONS)(texts.generate)
app.command("abstracts")(texts.abstracts)
app.command("sweep")(sweeps.sweep)
app.command("app")(books.app)


def describe_commands() -> TyperGroup:
    """All commands with their options, for the reference in the book."""
    from titlesmith.terminal import build_command

    group = typer.main.get_command(app)
    group.commands["generate"] = typer.main.get_command(build_command())  # its options are in notebook 04
    return group


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C or SIGTERM ends what can be saved, a second one the process."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line; titlesmith's errors are printed without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whose encoding may lack characters of texts
            # Lines of both streams are in order in a file too
            stream.reconfigure(errors="titlesmith.escape", line_buffering=True)
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    try:
        app()
    except InterruptError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except TitlesmithError as error:
        _exit(error.exit_code, str(error))
    except OSError as error:
        is_name = error.errno == errno.ENAMETOOLONG  # of a file in the request
        reason = f"{shorten(str(error.filename))}: {error.strerror}" if is_name else str(error)
        reason += ". Free some space; the same command resumes" * (error.errno == errno.ENOSPC)
        _exit(RequestError.exit_code if is_name else 1, reason)
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command resumes")


def _exit(code: int, reason: str) -> None:
    reason = re.sub(r"(.{1000}).{800,}(.{200})", r"\1 ... \2", reason)  # errors of libraries show values in full
    print("titlesmith: error:", reason, file=sys.stderr)
    sys.exit(code)
