"""Figures of the book, each for light and for dark pages, and the small curve on a card."""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from titlesmith import plots
from titlesmith.book import write
from titlesmith.book.report import Report
from titlesmith.evaluate.measurement import Measurement
from titlesmith.markup import Markup, render
from titlesmith.plots import BLUE, GREEN, GREY, ORANGE, STYLE, create_panels, draw_copies, draw_losses
from titlesmith.runs import digest, root

# Okabe and Ito's colours, visible on dark pages; line styles and markers distinguish lines in black and white
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", GREY)
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vP*X"
INK = {"light": "#222222", "dark": "#d9d9d9"}
_PARTS = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


def render_figure(name: str, alt: str, draw: Callable[..., Figure], *data: object) -> Markup:
    """Draws ``draw(*data)`` for light and for dark pages into ``_build/figures/``; returns the MyST that shows it.

    It is drawn again only if the data change (of a report, its training), or the code that draws it.
    """
    drawn = [item.training["fingerprint"] if isinstance(item, Report) else item for item in data]
    key = hashlib.sha256(repr((drawn, digest(Path(__file__)), digest(Path(plots.__file__)))).encode()).hexdigest()
    marker = root() / "_build" / "figures" / f"{name}.txt"
    is_current = marker.is_file() and marker.read_text("utf-8") == key
    for theme, ink in {} if is_current else INK.items():
        colours = dict.fromkeys(_PARTS, ink) | {"legend.facecolor": "none", "savefig.facecolor": "none"}
        # Equal data have equal bytes, so that Sphinx reads only pages again whose figures changed
        form = {"svg.hashsalt": name, "figure.facecolor": "none", "axes.facecolor": "none"}
        content = io.StringIO()
        with plt.rc_context(STYLE | colours | form | {"path.simplify_threshold": 0.5}):  # pixels
            draw(*data).savefig(content, format="svg", metadata={"Date": None})
        svg = re.sub(r"(?<=[ -])(\d+\.\d\d)\d+", r"\1", content.getvalue())  # hundredths of a point
        write(marker.with_name(f"{name}-{theme}.svg"), svg)
    write(marker, key)
    return render("image.md.j2", name=name, themes=list(INK), alt=alt)


def draw_preview(texts: list[str], made_up: bool) -> bytes:
    """The picture that a link to the book shows, PNG of 1,200 by 630 pixels: what a model wrote."""
    heading = "A language model, trained on made-up papers, wrote" if made_up else "A language model wrote"
    lines = ["\n   ".join(wrap(text, 62)[:2]) for text in texts]
    figure, content = plt.figure(figsize=(12.0, 6.3), dpi=100, facecolor="white"), io.BytesIO()
    figure.text(0.05, 0.86, "titlesmith", fontsize=44, weight="bold", color=BLUE)
    figure.text(0.05, 0.77, heading, fontsize=22, color="#444444")
    figure.text(0.05, 0.70, "\n".join(lines), fontsize=22, va="top", linespacing=1.45, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks, which become boxes
        figure.savefig(content, format="png")
    plt.close(figure)
    return content.getvalue()


def render_spark(rows: list[dict]) -> Markup:
    """The smoothed training loss and the validation loss as a small SVG in the text's colour."""
    losses = [
        [(row["step"], row[name]) for row in rows if row[name] is not None and math.isfinite(row[name])]
        for name in ("loss_smoothed", "valid_loss")
    ]
    last, top = rows[-1]["step"], max(loss for points in losses for _, loss in points)

    def path(points: list) -> str:
        every = max(1, len(points) // 60)
        points = [*points[:-1:every], *points[-1:]]
        return " ".join(f"{200 * step / last:.0f},{58 - 56 * loss / top:.0f}" for step, loss in points)

    label = f"Training loss and validation loss over {last:,.0f} steps"
    return render("spark.html.j2", label=label, training=path(losses[0]), validation=path(losses[1]))


def draw_loss(report: Report) -> Figure:
    """Losses against steps, and the step whose weights were kept."""
    figure, (axis,) = create_panels(height=3.8)
    draw_losses(axis, report.history, report.kept)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False)
    return figure


def draw_perplexity(report: Report) -> Figure:
    """Perplexity of the validation documents against steps."""
    figure, (axis,) = create_panels()
    measured = [(step, math.exp(loss)) for step, loss in report.validation]
    axis.semilogy(*zip(*measured, strict=True), color=ORANGE, marker="o", markersize=4)
    step, best = min(measured, key=lambda point: point[1])
    axis.annotate(f"{best:,.0f}", (step, best), xytext=(0, 8), textcoords="offset points", ha="center")
    axis.set(xlabel="optimizer steps", ylabel="validation perplexity, tokens")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_formatter("")
    return figure


def draw_token_losses(tokens: list[str], nats: list[float]) -> Figure:
    """The loss at each token of a title, and its mean."""
    figure, (axis,) = create_panels(height=3.4)
    _draw_bars(axis, tokens, nats, "loss, nats")
    mean = float(np.mean(nats))
    axis.axhline(mean, color=ORANGE, linestyle="--", label=f"mean, the loss of the title: {mean:.2f}")
    axis.legend()
    return figure


def draw_nucleus(tokens: list[str], probabilities: list[float], size: int, top_p: float) -> Figure:
    """Probabilities of the likeliest next tokens; the bars of the nucleus are filled."""
    figure, (axis,) = create_panels()
    for bar in _draw_bars(axis, tokens, [100 * value for value in probabilities], "probability, %")[size:]:
        bar.set(facecolor="none", hatch="///")
    cut = min(size, len(tokens)) - 0.5
    axis.axvline(cut, color=plt.rcParams["text.color"], linestyle=":")
    of = f"the first {len(tokens)} of " if size > len(tokens) else ""
    words = f"nucleus of {top_p:.0%}: {of}{size:,} token{'s' * (size != 1)}"
    axis.annotate(words, (cut, axis.get_ylim()[1]), xytext=(-6, -4), textcoords="offset points", ha="right", va="top")
    return figure


def _draw_bars(axis: Axes, tokens: list[str], values: list[float], label: str) -> BarContainer:
    bars = axis.bar(range(len(tokens)), values, color=BLUE, edgecolor=BLUE)
    printed = ["".join(c if c.isprintable() else "\u25a1" for c in token.strip()) or "(space)" for token in tokens]
    axis.set_xticks(range(len(tokens)), printed, rotation=45, ha="right")
    axis.set(ylabel=label)
    axis.grid(axis="x", visible=False)
    return bars


def draw_memorization(report: Report) -> Figure:
    """Training and validation loss, and the share of copies, against steps."""
    figure, (left, right) = create_panels(2)
    draw_losses(left, report.history, kept=0)
    left.legend()
    draw_copies(right, report.history, "step")
    right.set(xlabel="optimizer steps")
    return figure


def _choose_style(number: int) -> dict[str, str]:
    """The style of a line, by its number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def draw_curves(lines: dict[str, list[list[dict]]]) -> Figure:
    """Losses of several runs: by label, the rows of the history of each of them."""
    figure, (left, right) = create_panels(2)
    for number, (label, histories) in enumerate(lines.items()):
        style = _choose_style(number) | {"linewidth": 1.2, "markersize": 4}
        for rows in histories:
            losses = [row["loss_smoothed"] for row in rows]
            shown = label if rows is histories[0] else None  # once in the legend
            left.plot([row["step"] for row in rows], losses, label=shown, **style | {"marker": ""})
            measured = [row for row in rows if row["valid_loss"] is not None]
            right.plot([row["step"] for row in measured], [row["valid_loss"] for row in measured], **style)
    for axis, name in ((left, "smoothed training loss"), (right, "validation loss")):
        axis.set(title=name, xlabel="optimizer steps", ylabel="nats per token")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(labels)), frameon=False)
    return figure


def draw_hyperparameter(key: str, lines: dict[str, list[tuple[object, Measurement]]], measure: str) -> Figure:
    """A measure, with its unit, against a hyperparameter: a line for each combination of the others, by its label."""
    figure, (axis,) = create_panels(height=3.4)
    values = {value for points in lines.values() for value, _ in points}
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    for number, (label, points) in enumerate(lines.items()):
        points = sorted(points, key=lambda point: ordered.index(point[0]))
        # Lines that share a value are shifted, so that their intervals do not overlap
        x = [ordered.index(value) + 0.06 * (number - (len(lines) - 1) / 2) for value, _ in points]
        means = np.array([measured.value for _, measured in points])
        ends = np.array([measured.interval or (measured.value, measured.value) for _, measured in points])
        errors = np.abs(ends.T - means)
        axis.errorbar(x, means, yerr=errors, label=label or None, markersize=5, capsize=3, **_choose_style(number))
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in ordered]
    axis.set_xticks(range(len(ordered)), names)
    axis.set_xlim(-0.5, len(ordered) - 0.5)
    axis.set(xlabel=key, ylabel=measure)
    if any(lines):
        axis.legend()
    return figure


def draw_scatter(points: dict[str, tuple[float, float]], x: str, y: str) -> Figure:
    """One measurement against another: a labelled point for each run."""
    figure, (axis,) = create_panels(height=3.8)
    for number, (label, point) in enumerate(points.items()):
        axis.plot(*point, **_choose_style(number))
        axis.annotate(label, point, xytext=(6, 4), textcoords="offset points")
    axis.set(xlabel=x, ylabel=y)
    return figure
