"""Makes pictures: the home page of the book, which the README shows, and the terminal while a model trains.

    make pictures EXPERIMENT='archive-titles -p harvest.path=FILE'

The experiment is run in a terminal of 110 columns, whose content half way through training becomes the first picture.
Then the book is built, with that run as its newest, for the second one. Needs playwright and Chromium.
"""

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import termios

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from titlesmith.book.build import build
from titlesmith.cli import describe_commands
from titlesmith.runs import replacing, root

WIDTH = 110
MAX_BYTES = 300_000  # of a picture


def main(arguments: list[str]) -> None:
    """Makes both pictures."""
    screen = train(arguments)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi(screen))
    svg = console.export_svg(title=f"titlesmith run {' '.join(arguments)}")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts from the internet
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        tab.set_content(f"<body style='margin: 0'>{svg}</body>")
        photograph(tab.locator("svg"), "terminal")
        tab = browser.new_page(viewport={"width": 1300, "height": 1060})
        tab.goto((build(describe_commands()).page.parent / "book" / "index.html").as_uri())
        tab.wait_for_timeout(500)
        photograph(tab, "home")
        browser.close()


def train(arguments: list[str]) -> str:
    """Runs an experiment in a terminal; returns the terminal's content when training was half done."""
    command = [sys.executable, "-m", "titlesmith", "run", *arguments]
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (40, WIDTH))
    shown = b"$ titlesmith run " + " ".join(arguments).encode() + b"\r\n"
    half = None
    with subprocess.Popen(command, stdout=writer, stderr=writer, env=os.environ | {"COLUMNS": str(WIDTH)}) as process:
        os.close(writer)
        while True:
            try:
                piece = os.read(reader, 65536)
            except OSError:  # the terminal is closed
                break
            shown += piece
            if half is None and re.search(rb" (5\d|6\d)%\|[^\r]*loss", shown):
                half = shown
    if process.returncode or half is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{screen(shown)}")
    return screen(half)


def screen(shown: bytes) -> str:
    """The content of the terminal: a carriage return overwrites its line."""
    lines = shown.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    lines = [next(filter(None, reversed(line.split("\r"))), "") for line in lines]
    return "\n".join(lines)


def photograph(what, name: str) -> None:
    """Writes a picture of at most `MAX_BYTES`."""
    with replacing(root() / "book" / "_static" / f"{name}.png") as path:
        path.write_bytes(what.screenshot(type="png"))
        if path.stat().st_size > MAX_BYTES:
            raise SystemExit(f"{name}.png has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    print(f"book/_static/{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:] or ["sample-titles"])
