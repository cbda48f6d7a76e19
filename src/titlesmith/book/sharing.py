"""What makes a published book easy to share: its feed and its preview image, which pages name in their heads."""

import warnings
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt

from titlesmith import models
from titlesmith.book.address import FEED, PREVIEW, find_address
from titlesmith.book.figures import write
from titlesmith.book.pages import choose_best, choose_lead
from titlesmith.book.report import Report
from titlesmith.markup import render, text
from titlesmith.plots import BLUE
from titlesmith.runs import replacing, root

ENTRIES, TITLES = 20, 5
SIZE = (12.0, 6.3)  # inches at 100 dots: the proportions that social networks show


def write_feed(reports: list[Report], html: Path) -> None:
    """Writes an Atom feed (RFC 4287) of the newest runs, with what their models wrote."""
    entries = [
        {
            "report": report,
            "model": models.describe(report.training["settings"]["model"]),
            "texts": [row["text"] for row in choose_best(report)[:TITLES]],
        }
        for report in reports[:ENTRIES]
    ]
    write(html / FEED, render("feed.xml.j2", address=find_address(), feed=FEED, entries=entries))


def write_preview(reports: list[Report], html: Path) -> None:
    """Draws the preview image: the best texts of the home page's run. Drawn again only if they change."""
    report = choose_lead(reports)
    lines = [text(row["text"]) for row in choose_best(report)[:TITLES]] if report else []
    shown, path = "\n".join(["titlesmith", *lines]), html / PREVIEW
    marker = root() / "_build" / "figures" / "preview.txt"
    if path.is_file() and marker.is_file() and marker.read_text("utf-8") == shown:
        return
    figure = plt.figure(figsize=SIZE, dpi=100, facecolor="white")
    figure.text(0.05, 0.86, "titlesmith", fontsize=44, weight="bold", color=BLUE)
    figure.text(0.05, 0.77, "A language model wrote these titles:", fontsize=22, color="#444444")
    body = "\n".join("\n   ".join(wrap(line, 62)[:2]) for line in lines)
    figure.text(0.05, 0.70, body, fontsize=22, va="top", linespacing=1.45, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks, which become boxes
        figure.savefig(temporary, format="png")
    plt.close(figure)
    write(marker, shown)
