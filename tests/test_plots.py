from datetime import date

import polars as pl
import pytest

from titlesmith import plots
from titlesmith.results import Built, Evaluation, Harvested, History, Texts

HISTORY = [
    {"step": i, "loss": 5 / i, "loss_smoothed": 5 / i, "copy_rate": i / 9, "valid_loss": 4 / i if i % 2 else None}
    | {"learning_rate": 1e-3, "grad_norm": 1.0}
    for i in range(1, 9)
]
NOVELTY = {f"novelty_{n}": n / 9 for n in range(1, 9)} | {
    "intervals": {f"novelty_{n}": [0.1, 0.9] for n in range(1, 9)}
}
NOVELTY["human"] = {"novelty_1": 0.2, "novelty_2": None, "intervals": {"novelty_1": [0.1, 0.3]}}
PAPERS = pl.DataFrame(
    {"published": [date(2020, 1, 1), date(2021, 1, 1), None], "primary_category": ["cs.$x$", "cs.CL", None]}
)


class Table:
    """Papers in memory rather than in a file."""

    def __init__(self, table):
        self.scan = table.lazy


class Lengths:
    """A corpus of which only the lengths of documents are known."""

    def __init__(self, words, tokens, documents):
        self.info = {"splits": {"train": {"documents": documents}}}
        self.lengths = lambda _: (words, tokens)


def harvested(table, label="papers"):
    return Harvested(Table(table), 1, label)


def history(floor=0.1):
    return History(HISTORY, floor, 0.5, 2, "all 8 steps were done", [], "papers")


def texts(similarities=(), words=()):
    rows = [{"nearest_similarity": value} for value in similarities]
    return rows or [{"text": "word " * count} for count in words]


def evaluation(metrics, words=(), held_out=()):
    return Evaluation(metrics, "scratch", texts(words=words), ["word " * count for count in held_out], "papers")


@pytest.mark.parametrize(
    "figure",
    [
        plots.papers(harvested(PAPERS, "$file$.tsv")),
        plots.papers(harvested(PAPERS.tail(1), "synopses.csv")),
        plots.lengths(Built(Lengths([3, 3, 3], [5, 6, 90], 3), "papers")),
        plots.loss(history()),
        plots.copies(history()),
        plots.similarities(Texts(texts([0.2, 1.0]), "run")),
        plots.word_counts(evaluation({}, [3, 5, 9], [4])),
        plots.word_counts(evaluation({})),
        plots.novelty(evaluation(NOVELTY)),
        plots.novelty(evaluation({"human": {}})),
    ],
)
def test_figures_have_titles_and_labels_with_units(figure, tmp_path):
    assert figure.get_suptitle()
    for axis in figure.axes:
        assert axis.get_ylabel() or axis.get_xlabel()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_floor_is_shown_only_if_it_is_set():
    def lines(floor):
        return [line.get_label() for line in plots.loss(history(floor)).axes[0].get_lines()]

    assert "floor at 0.1" in lines(0.1)
    assert len(lines(0.0)) == 4
    assert "kept: step 2" in lines(0.0)


def test_labels_are_text_and_not_mathematics(tmp_path):
    formula = r"$$\def\x{\x\x}\x$$"
    table = pl.DataFrame({"published": [date(2020, 1, 1)], "primary_category": [formula]})
    figure = plots.papers(harvested(table, formula))
    figure.axes[0].set(xlabel=formula, title=formula)
    figure.axes[0].plot([1, 2], label=formula)
    figure.axes[0].legend()
    figure.axes[0].annotate(formula, (1, 1))
    figure.savefig(tmp_path / "a.svg")
    assert r"\def" in (tmp_path / "a.svg").read_text()


def test_lengths_of_a_sample_name_the_number_of_documents():
    built = Built(Lengths([3, 3, 3], [5, 6, 90], 2_250_000), "")
    assert "3 of 2,250,000 training documents" in plots.lengths(built).get_suptitle()
