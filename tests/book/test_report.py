import json
import re
import shutil

import pytest

from titlesmith.book.compare import open_reports
from titlesmith.book.report import FILES, Report, load_reports
from titlesmith.errors import RunError
from titlesmith.export import export
from titlesmith.generate.source import open_source
from titlesmith.runs import Run, digest
from titlesmith.train.monitor import first_samples


@pytest.fixture
def run(finished_project, tmp_path, monkeypatch):
    """A copy of the finished run that a test may damage."""
    shutil.copytree(finished_project / "runs" / "small", tmp_path / "runs" / "small")
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    return tmp_path / "runs" / "small"


def change(run, **values):
    """Gives metrics.json other content, as the stage that writes it would."""
    (run / "metrics.json").write_text(json.dumps(values))
    Run(run.name).update_stage("evaluate", outputs={"metrics.json": digest(run / "metrics.json")})
    return Report(run)


def test_a_report_needs_neither_papers_nor_weights(run):
    shutil.rmtree(run / "model")
    (run / "papers.parquet").unlink()
    report = Report(run)
    assert report.training["steps"] == 6 and len(report.history) == 6
    assert report.measurement("perplexity.test") > 1 and report.measurement("perplexity") is None
    assert report.measurement("nothing") is None and report.interval("nothing") is None
    low, high = report.interval("perplexity.test")
    assert low < report.measurement("perplexity.test") < high


@pytest.mark.parametrize("name", [*FILES, "notebooks/03_finetune.ipynb"])
@pytest.mark.parametrize("harm", ["missing", "cut", "empty"])
def test_a_damaged_run_is_named_with_a_remedy(run, name, harm):
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    with pytest.raises(RunError) as error:
        Report(run).chapter("finetune")
    assert path.name in str(error.value)
    assert any(word in str(error.value) for word in ("titlesmith run", "Remove it", "Move"))


def test_a_damaged_run_is_omitted_and_the_others_stay(run):
    shutil.copytree(run, run.parent / "complete")
    (run / "metrics.json").unlink()
    (run.parent / "stray").mkdir()
    shown, omitted = load_reports()
    assert [report.name for report in shown] == ["complete"]
    assert "metrics.json" in omitted["small"] and "is not a run" in omitted["stray"]


def test_newer_keys_may_be_missing(run):
    report = change(run, perplexity={"train": 2.0, "valid": None, "test": 3.0})
    assert report.measurement("copy_rate") is None and report.measurement("perplexity.valid") is None


def test_intervals_are_read_if_they_exist(run):
    metrics = {"perplexity": dict.fromkeys(("train", "valid", "test"), 2.0), "rouge1": 0.5, "self_bleu": None}
    intervals = {"perplexity_interval": {"test": [1.5, 2.5], "train": None}, "intervals": {"rouge1": [0.4, 0.6]}}
    report = change(run, **metrics, **intervals)
    assert report.interval("perplexity.test") == (1.5, 2.5) and report.interval("rouge1") == (0.4, 0.6)
    assert report.interval("perplexity.train") is report.interval("self_bleu") is None


def test_runs_that_only_a_published_book_has_are_read_from_there(run, tmp_path):
    published = tmp_path / "site"
    report = Report(run)
    for name in ("small", "earlier"):
        report.copy_to(published / "runs" / name, run / "notebooks")
    shown, omitted = load_reports(published)
    assert {r.name: r.path.parent.parent for r in shown} == {"small": tmp_path, "earlier": published}
    assert not omitted
    assert shown[0].texts == shown[1].texts and first_samples(shown[0]) == first_samples(shown[1]) != []
    (published / "runs" / "earlier" / "history.csv").unlink()
    assert list(load_reports(published)[1]) == ["earlier"]


@pytest.mark.parametrize("name", ["../out", "", None])
def test_a_sweep_with_an_invalid_name_is_ignored(run, name):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"sweep": {"name": name, "set": {}}}))
    assert Report(run).sweep == {}


@pytest.mark.parametrize("name", ["tokenizer.json", "test.bin", "test.parquet"])
def test_a_damaged_corpus_is_one_error_with_its_file_and_the_command(run, name):
    path = run / "corpus" / name
    path.write_bytes(path.read_bytes()[:20])
    message = rf"{name} is damaged.*titlesmith run .*--name small"
    assert re.search(message, load_reports()[1]["small"])
    for use in (
        lambda: open_source("small"),
        lambda: export(Run("small"), "hf"),
        lambda: open_reports(["small", "other"]),
    ):
        shutil.copytree(run, run.parent / "other", dirs_exist_ok=True)
        with pytest.raises(RunError, match=message):
            use()
