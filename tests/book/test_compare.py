import io
import json
import shutil

import pytest
from lxml import html
from rich.console import Console

from conftest import copy_run
from titlesmith.book import compare as comparing
from titlesmith.book.compare import compare, format_value, mark_best, open_reports
from titlesmith.errors import RequestError
from titlesmith.runs import Run, digest


@pytest.fixture
def two(finished_project, tmp_path, monkeypatch):
    """Two runs that differ in the learning rate and in their figures."""
    shutil.copytree(finished_project / "runs" / "small", tmp_path / "runs" / "small")
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    other = copy_run(tmp_path, "other")
    settings = other.record("finetune")["settings"] | {"learning_rate": 0.0001}
    other.update_stage("finetune", settings=settings)
    metrics = json.loads((other / "metrics.json").read_text())
    metrics["perplexity"]["test"] = 1.5
    metrics["copy_rate"] = None
    (other / "metrics.json").write_text(json.dumps(metrics))
    other.update_stage("evaluate", outputs={"metrics.json": digest(other / "metrics.json")})
    return tmp_path


def row(rows, name):
    return next(row for row in rows if row[""] == name)


def test_parameters_that_differ_measurements_and_texts_are_compared(two):
    comparison = compare(open_reports(["small", "other"]))
    parameters, measurements, texts = comparison.values()
    assert parameters == [{"": "finetune.learning_rate", "small": "0.002", "other": "0.0001"}]
    assert row(measurements, "perplexity, test")["other"] == "1.500 (best)"
    assert "best" not in row(measurements, "perplexity, test")["small"]
    assert "best" not in str(row(measurements, "perplexity, train")), "no value is best if all are equal"
    assert row(measurements, "copies of training texts")["other"] == "-"
    assert len(texts) == 9 and texts[0]["small"] == texts[0]["other"]
    assert list(comparison)[1] == "Measurements"


def test_published_results_of_the_runs_values_are_shown_next_to_theirs(two):
    Run("other").update(sweep={"name": "s", "set": {"finetune.batch_size": 2}, "repeat": 1})
    rows = [{"set": {"finetune.batch_size": n}, "source": f"<b>{n}", "hours": 31, "loss.test": 3.1} for n in (2, 4)]
    (two / "sweeps").mkdir()
    (two / "sweeps" / "s.json").write_text(json.dumps({"reference": rows}))
    measurements = compare(open_reports(["small", "other"]))["Measurements"]
    assert list(measurements[0]) == ["", "small", "other", "published: <b>2 (2)"]
    assert row(measurements, "hours of training")["published: <b>2 (2)"] == "31.00"
    assert row(measurements, "loss in nats per token, test")["published: <b>2 (2)"] == "3.100"
    assert "&lt;b&gt;2" in comparing.render_comparison(compare(open_reports(["small", "other"])))


def test_perplexities_of_different_vocabularies_are_not_compared(two):
    vocabulary = Run("other") / "corpus" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text("utf-8") + "\n", "utf-8")
    outputs = Run("other").record("corpus")["outputs"] | {"corpus/tokenizer.json": digest(vocabulary)}
    Run("other").update_stage("corpus", outputs=outputs)
    for stage in ("finetune", "generate", "evaluate"):
        Run("other").update_stage(stage, inputs=Run("other").inputs(stage))
    comparison = compare(open_reports(["small", "other"]))
    _, title, _ = comparison
    assert "bits per byte" in title and "best" not in str(row(comparison[title], "perplexity, test"))


def test_the_page_and_the_terminal_show_texts_literally(two):
    comparison = compare(open_reports(["small", "other"]))
    page = html.document_fromstring(comparing.render_comparison(comparison))
    assert not page.xpath("//script") and page.xpath("//table") and page.get("lang") == "en"
    out = io.StringIO()
    comparing.print_comparison(comparison, Console(file=out, width=200))
    assert "finetune.learning_rate" in out.getvalue() and "1.500 (best)" in out.getvalue()


def test_one_run_and_unknown_runs_are_errors(two):
    with pytest.raises(RequestError, match="two runs"):
        open_reports(["small", "small"])
    with pytest.raises(RequestError, match=r"no run smal; there are .*small"):
        open_reports(["smal", "other"])


def test_the_best_is_marked_in_words():
    assert mark_best([0.5, None, 0.25], min) == ["0.500", "-", "0.250 (best)"]
    assert mark_best([1.0, 1.0], min) == ["1.000", "1.000"]
    assert mark_best([12.0, 2000.0], None) == ["12.00", "2,000"]
    assert format_value(1e-5) == "1e-05" and format_value(["", "Neural"]) == ", Neural" and format_value(None) == "-"
