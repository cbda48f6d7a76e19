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
from titlesmith.cli import books, runs, setup
from titlesmith.errors import InterruptError, TitlesmithError
from titlesmith.interrupts import SIGNALS

# What a terminal's encoding lacks is escaped as in JSON, so that lines of --json stay JSON
codecs.register_error("titlesmith.escape", lambda e: (json.dumps(e.object[e.start : e.end])[1:-1], e.end))
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def titlesmith(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Fine-tune a language model on scientific papers and publish the results as a book."""
    if version:
        print(f"titlesmith {__version__}")
        raise typer.Exit


# A command's module imports what it needs inside of its function: this one starts in a fraction of a second
app.add_typer(setup.model_commands, name="models")
for command in (
    setup.init, setup.doctor, runs.run, runs.finish, runs.list_, runs.show, runs.params, runs.update, runs.daily,
    runs.sweep, books.book, books.compare, books.study, books.export, books.app, setup.abstracts,
):  # fmt: skip
    app.command(command.__name__.rstrip("_"))(command)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def generate(context: typer.Context) -> None:
    """Generate texts with a run's model, or with an adapter, from any number of prefixes, and print them."""
    from titlesmith.terminal import build_command  # its options are in notebook 04

    build_command()(context.args, prog_name="titlesmith generate")


def describe_commands() -> TyperGroup:
    """All commands with their options, for the reference in the book."""
    from titlesmith.terminal import build_command

    group = typer.main.get_command(app)
    group.commands["generate"] = typer.main.get_command(build_command())
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
        remedy = ". Free some space; the same command resumes" if error.errno == errno.ENOSPC else ""
        _exit(2 if error.errno == errno.ENAMETOOLONG else 1, f"{error}{remedy}")
    except KeyboardInterrupt:
        _exit(130, "interrupted; the same command resumes")


def _exit(code: int, reason: str) -> None:
    reason = re.sub(r"(.{1000}).{800,}(.{200})", r"\1 ... \2", reason)  # errors of libraries show values in full
    print("titlesmith: error:", reason, file=sys.stderr)
    sys.exit(code)
