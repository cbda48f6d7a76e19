import json

import pytest

from titlesmith.book import sweeps
from titlesmith.book.compare import read_record
from titlesmith.book.sweeps import format_summary, render_sweep, summarize

NOTHING = {"reference": [], "plot": []}


class Fake:
    """What a sweep's page asks of a report."""

    made_up = False

    def __init__(self, number, values, perplexity, repeat=1, sweep="s"):
        self.name, self.perplexity = f"run-{number}", perplexity
        self.sweep = {"name": sweep, "set": values, "repeat": repeat} if sweep else {}
        self.training = {"fingerprint": self.name}
        self.history = [{"step": i, "loss_smoothed": 5 / i, "valid_loss": 4 / i} for i in range(1, 4)]

    def measurement(self, name):
        return self.perplexity

    def setting(self, key):
        return {"generate.top_p": self.perplexity / 100}.get(key)

    def interval(self, name):
        return (self.perplexity - 1, self.perplexity + 1)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    return tmp_path


def test_repeats_have_a_mean_with_its_range_and_one_run_its_interval():
    def shown(*runs):
        return format_summary(summarize(runs, "perplexity.test"))

    assert shown(Fake(1, {}, 20.0), Fake(2, {}, 30.0)) == "25.00 [20.00, 30.00]"
    assert shown(Fake(1, {}, 20.0)) == "20.00 [19.00, 21.00]"
    assert shown(Fake(1, {}, None)) == "-"


def test_the_table_marks_the_best_and_labels_published_results(root):
    runs = [
        Fake(i, {"finetune.learning_rate": rate, "finetune.batch_size": size}, 10 * size + repeat, repeat)
        for i, (rate, size, repeat) in enumerate((r, s, n) for r in (1e-4, 5e-5) for s in (1, 8) for n in (1, 2))
    ]
    reference = {"set": {"finetune.batch_size": 1}, "perplexity.test": 17.61, "source": "Liu <and> Zheng"}
    elsewhere = {"set": {}, "perplexity.test": 20.08, "hours": 31, "source": "elsewhere"}
    made = render_sweep("s", runs, {"reference": [reference, elsewhere], "plot": []})
    assert "8 runs" in made and "finetune\\.learning\\_rate and finetune\\.batch\\_size" in made
    assert made.count("(best)") == 6, "two combinations share the best of each split"
    assert "11.50 [11.00, 12.00] (best)" in made
    assert "published: Liu &lt;and&gt; Zheng" in made and "17.61" in made and "20.08" in made
    assert "<td" in made and "17.61 (best)" not in made
    assert "hours of training" in made and "31.00" in made
    figures = {path.name for path in (root / "_build" / "figures").glob("*.svg")}
    assert figures == {f"sweep-s-{name}-{theme}.svg" for name in ("losses", "0", "1") for theme in ("light", "dark")}
    assert all(":alt:" in part for part in made.split("```{image}")[1:])


@pytest.mark.parametrize("content", [None, "{", "[]", '{"reference": [1]}', "{}"])
def test_an_unreadable_sweep_file_has_no_reference(root, content):
    (root / "sweeps").mkdir()
    if content is not None:
        (root / "sweeps" / "s.json").write_text(content)
    assert read_record("s", [root]) == NOTHING


def test_values_that_are_not_numbers_and_missing_measurements_are_shown(root):
    runs = [Fake(1, {"corpus.template": "title"}, 9.0), Fake(2, {"corpus.template": "year-title"}, None)]
    assert "corpus.template" in render_sweep("s", runs, NOTHING)
    assert "No run measured" in sweeps.render_sweep("s", [Fake(1, {"model": "124M"}, None)], NOTHING)


def test_any_measurement_is_plotted_against_parameters_and_measurements(root):
    runs = [Fake(i, {"case": name}, 10.0 * (i + 1)) for i, name in enumerate("ab")]
    plot = [("generate.top_p", "copy_rate"), ("copy_rate", "classifier_accuracy")]
    made = render_sweep("s", runs, NOTHING | {"plot": plot})
    assert "## copies of training texts against generate" in made and "the lowest, 10.00, at 0.1." in made
    assert "accuracy of a two-sample classifier against copies of training texts, a point for each of 2 runs." in made
    assert "copies of training texts" in made.partition("## Losses")[0], "the table has what the figures show"
    figure = (root / "_build" / "figures" / "sweep-s-1-light.svg").read_text()
    assert "case" not in figure, "a case is no other value next to what it decides"


def test_the_runs_of_a_search_are_one_line(root):
    runs = [Fake(i, {"finetune.learning_rate": i / 100, "finetune.dropout": i / 10}, 9.0 + i) for i in range(1, 9)]
    render_sweep("s", runs, NOTHING)
    figure = (root / "_build" / "figures" / "sweep-s-0-light.svg").read_text()
    assert "legend" not in figure


@pytest.mark.parametrize("plot", [3, [1], [["x", "no such"]], [["x", {}]], [["x"]]])
def test_figures_of_a_damaged_record_are_left_out(root, plot):
    (root / "sweeps").mkdir()
    (root / "sweeps" / "s.json").write_text(json.dumps({"plot": plot}))
    assert read_record("s", [root]) == NOTHING
