from datetime import date

import polars as pl
import pytest

from titlesmith import plots

HISTORY = [
    {"step": i, "loss": 5 / i, "loss_smoothed": 5 / i, "copy_rate": i / 9, "valid_loss": 4 / i if i % 2 else None}
    | {"learning_rate": 1e-3, "grad_norm": 1.0}
    for i in range(1, 9)
]
NOVELTY = {f"novelty_{n}": n / 5 for n in range(1, 5)} | {
    "intervals": {f"novelty_{n}": [0.1, 0.9] for n in range(1, 5)}
}
NOVELTY["human"] = {"novelty_1": 0.2, "novelty_2": None, "intervals": {"novelty_1": [0.1, 0.3]}}
PAPERS = pl.LazyFrame(
    {"published": [date(2020, 1, 1), date(2021, 1, 1), None], "primary_category": ["cs.$x$", "cs.CL", None]}
)
UNDATED = PAPERS.tail(1)


@pytest.mark.parametrize(
    "figure",
    [
        plots.papers(PAPERS, "$file$.tsv"),
        plots.papers(UNDATED, "synopses.csv"),
        plots.lengths([3, 3, 3], [5, 6, 90], "papers", 3),
        plots.history(HISTORY, 0.1, 2, "papers"),
        plots.memory(HISTORY, 0.1, 0.5, "papers"),
        plots.similarities([0.2, 1.0]),
        plots.lengths_beside([3, 5, 9], [4], "papers"),
        plots.lengths_beside([], [], "papers"),
        plots.novelty(NOVELTY, "papers"),
        plots.novelty({"human": {}}, "papers"),
    ],
)
def test_figures_have_titles_and_labels_with_units_and_can_be_drawn(figure, tmp_path):
    assert figure.get_suptitle()
    for axis in figure.axes:
        assert axis.get_ylabel() or axis.get_xlabel()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_floor_is_drawn_only_where_there_is_one():
    def lines(floor):
        return [line.get_label() for line in plots.history(HISTORY, floor, 2, "").axes[0].get_lines()]

    assert "floor at 0.1" in lines(0.1)
    assert len(lines(0.0)) == 4
    assert "kept: step 2" in lines(0.0)


def test_labels_are_text_and_not_mathematics(tmp_path):
    formula = r"$$\def\x{\x\x}\x$$"
    table = pl.LazyFrame({"published": [date(2020, 1, 1)], "primary_category": [formula]})
    figure = plots.papers(table, formula)
    figure.axes[0].set(xlabel=formula, title=formula)
    figure.axes[0].plot([1, 2], label=formula)
    figure.axes[0].legend()
    figure.axes[0].annotate(formula, (1, 1))
    figure.savefig(tmp_path / "a.svg")
    assert r"\def" in (tmp_path / "a.svg").read_text()


def test_lengths_of_a_sample_say_of_how_many():
    assert "3 of 2,250,000 training documents" in plots.lengths([3, 3, 3], [5, 6, 90], "", 2_250_000).get_suptitle()
