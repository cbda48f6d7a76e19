"""Figures of the results of `titlesmith.results`, one function each; each returns a matplotlib figure."""

from textwrap import wrap
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:  # plots are below results
    from titlesmith.results import Built, Evaluation, Harvested, History, Texts

# Okabe and Ito's colours, which colour-blind readers distinguish; line styles distinguish them in black and white
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
WIDTH = 4.8  # inches, of which 12 points are 12 pixels on a telephone
STYLE = {
    "font.size": 12,
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": "medium",
    "legend.fontsize": "small",
}
plt.rcParams["text.parse_math"] = False  # labels hold text of papers and files, which is not mathematics
plt.rcParams["axes.titlelocation"] = "left"


def create_panels(rows: int = 1, height: float = 3.2, title: str = "") -> tuple[Figure, list]:
    """A figure with axes below each other, of this height each, in inches."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, 1, figsize=(WIDTH, rows * height), layout="constrained", squeeze=False)
    if title:
        figure.suptitle("\n".join(wrap(title, 46)), x=0.01, ha="left", fontsize="medium")
    plt.close(figure)  # the notebook shows the cell's result, once
    return figure, list(axes[:, 0])


def papers(harvested: "Harvested") -> Figure:
    """Papers by year of publication, and by primary category (the ten most frequent)."""
    table = harvested.scan()
    rows = table.select(pl.len()).collect().item()
    figure, (left, right) = create_panels(2, title=f"{rows:,} papers: {harvested.label}")
    years = table.group_by(value=pl.col("published").dt.year()).len().drop_nulls().collect(engine="streaming")
    left.bar(years["value"].to_list(), years["len"].to_list(), color=BLUE)
    if years.is_empty():
        left.text(0.5, 0.5, "unknown", transform=left.transAxes, ha="center")
    left.set(title="By year", xlabel="year of first publication", ylabel="papers")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    left.yaxis.set_major_formatter("{x:,.0f}")
    categories = table.group_by(value=pl.col("primary_category").fill_null("unknown")).len()
    categories = categories.collect(engine="streaming").top_k(10, by="len").sort("len", "value")
    right.barh(categories["value"].to_list(), categories["len"].to_list(), color=GREEN)
    right.set(title="By primary category", xlabel="papers")
    right.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    right.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _choose_bins(values: list[int], count: int) -> np.ndarray:
    """Edges of about ``count`` bins, each of which has equally many integers."""
    width = max(1, (max(values) - min(values)) // count)
    return np.arange(min(values) - 0.5, max(values) + width + 0.5, width)


def lengths(built: "Built") -> Figure:
    """Histograms of the lengths of training documents, or of a sample of them, in words and in tokens."""
    (words, tokens), total = built.corpus.lengths("train"), built.corpus.info["splits"]["train"]["documents"]
    sample = f"{len(words):,} of " if len(words) < total else ""
    figure, axes = create_panels(2, 3.0, f"Lengths of {sample}{total:,} training documents: {built.label}")
    for axis, values, unit, color in zip(axes, (words, tokens), ("words", "tokens"), (BLUE, ORANGE), strict=True):
        axis.hist(values, bins=_choose_bins(values, 40), color=color, alpha=0.85)
        axis.axvline(np.mean(values), color="black", linestyle="--", label=f"mean {np.mean(values):.1f}")
        axis.set(title=f"In {unit}", xlabel=f"{unit} per document", ylabel="documents")
        axis.legend()
    return figure


def draw_losses(axis: Axes, rows: list[dict], kept: int) -> None:
    """Draws loss, smoothed loss and validation loss against steps, and the step whose weights were kept."""
    steps = [row["step"] for row in rows]
    style = {"color": BLUE, "alpha": 0.5, "linewidth": 0.8}
    axis.plot(steps, [row["loss"] for row in rows], label="training loss, each step", **style)
    axis.plot(steps, [row["loss_smoothed"] for row in rows], color=BLUE, label="training loss, smoothed")
    measured = [(row["step"], row["valid_loss"]) for row in rows if row["valid_loss"] is not None]
    if measured:
        axis.plot(*zip(*measured, strict=True), color=ORANGE, marker="o", markersize=4, label="validation loss")
    if kept:
        color = plt.rcParams["text.color"]
        axis.axvline(kept, label=f"kept: step {kept:,}", color=color, linestyle="--", linewidth=1)
    axis.set(xlabel="optimizer steps", ylabel="loss, nats per token")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(bottom=0)


def draw_copies(axis: Axes, rows: list[dict], key: str) -> None:
    """Draws the share of copies among the texts sampled during training against a column of the history."""
    measured = [row for row in rows if row.get("copy_rate") is not None]
    shares = [100 * row["copy_rate"] for row in measured]
    axis.plot([row[key] for row in measured], shares, color=ORANGE, marker="o", markersize=4)
    axis.set(ylabel="copies, % of texts", ylim=(-3, 103))


def loss(history: "History") -> Figure:
    """Loss, smoothed loss and validation loss against steps, with the floor and the kept step."""
    figure, (axis,) = create_panels(1, 4.3, f"Training on {history.label}")
    draw_losses(axis, history.rows, history.kept_step)
    if history.loss_floor:
        axis.axhline(history.loss_floor, color=GREY, linestyle=":", label=f"floor at {history.loss_floor}")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=2, frameon=False)
    return figure


def copies(history: "History") -> Figure:
    """Share of copies among the texts sampled during training, against steps and against the smoothed loss."""
    figure, (left, right) = create_panels(2, 3.0, f"Copies of training texts during training on {history.label}")
    draw_copies(left, history.rows, "step")
    draw_copies(right, history.rows, "loss_smoothed")
    left.set(title="During training", xlabel="optimizer steps")
    if history.loss_floor:
        right.axvline(history.loss_floor, color=GREY, linestyle=":", label=f"floor at {history.loss_floor}")
    memorized = history.memorization_floor
    right.axvline(memorized, color=BLUE, linestyle="--", label=f"all memorized: {memorized:.2f}")
    right.legend(loc="upper left")
    right.set(title="Against the loss, falling to the right", xlabel="smoothed training loss, nats per token")
    right.set_xlim(right.get_xlim()[1], 0)
    return figure


def similarities(texts: "Texts") -> Figure:
    """Histogram of the similarity of each generated text to its nearest training text; copies are at 1."""
    values = [row["nearest_similarity"] for row in texts.rows]
    figure, (axis,) = create_panels(1, 2.8, f"Similarity of {len(values):,} generated texts to the training texts")
    axis.hist(values, bins=np.linspace(0, 1, 41), color=BLUE)
    axis.axvline(0.9, color=GREY, linestyle=":", label="near copies: 0.9 or more")
    axis.set(xlabel="similarity to the nearest training text (1 is a copy)", ylabel="texts", xlim=(0, 1.02))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    return figure


def word_counts(evaluation: "Evaluation") -> Figure:
    """Histograms of the lengths in words of generated texts and of held-out texts by people, as shares."""
    generated = [len(row["text"].split()) for row in evaluation.rows]
    people = [len(text.split()) for text in evaluation.held_out]
    figure, (axis,) = create_panels(1, 3.0, f"Lengths of generated texts and of texts by people: {evaluation.label}")
    bins = _choose_bins([*generated, *people] or [0], 30)
    for values, name, color, line in ((generated, "generated", ORANGE, "-"), (people, evaluation.people, BLUE, "--")):
        if values:
            weights, style = np.full(len(values), 100 / len(values)), {"histtype": "step", "linewidth": 2}
            label = f"{name}, mean {np.mean(values):.1f}"
            axis.hist(values, bins, weights=weights, label=label, color=color, linestyle=line, **style)
    axis.set(xlabel="words per text", ylabel="texts, %")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if generated or people:
        axis.legend()
    return figure


def novelty(evaluation: "Evaluation") -> Figure:
    """Share of n-grams that no training text has, by n, of generated texts and of texts by people (metrics.json)."""
    figure, (axis,) = create_panels(1, 3.0, f"Word sequences that no training text has: {evaluation.label}")
    of_generated, of_people = evaluation.metrics, evaluation.metrics["human"]
    for of, name, color, line in ((of_generated, "generated", ORANGE, "-"), (of_people, evaluation.people, BLUE, "--")):
        measured = [n for n in range(1, 9) if of.get(f"novelty_{n}") is not None]
        if measured:
            values = np.array([of[f"novelty_{n}"] for n in measured])
            ends = np.array([of["intervals"][f"novelty_{n}"] for n in measured])
            errors, style = 100 * np.abs(ends.T - values), {"color": color, "linestyle": line, "marker": "o"}
            shifted = np.array(measured) + (0.03 if of is of_people else -0.03)  # so that intervals do not overlap
            axis.errorbar(shifted, 100 * values, errors, label=name, capsize=4, **style)
    axis.set(xlabel="words in a sequence", ylabel="new, %", ylim=(-3, 103), xlim=(0.7, 8.3), xticks=range(1, 9))
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    return figure
