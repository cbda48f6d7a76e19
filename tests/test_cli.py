import json
import subprocess
import sys

import pytest

from conftest import SMALL, copy_run
from titlesmith import __version__, cli
from titlesmith.runs import STAGES, Run


def command(monkeypatch, capsys, *words: str) -> str:
    """What a command prints."""
    monkeypatch.setattr(sys, "argv", ["titlesmith", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    return output.out


def test_version(monkeypatch, capsys):
    assert command(monkeypatch, capsys, "--version") == f"titlesmith {__version__}\n"


def test_list_and_show_for_people_and_programs(finished, monkeypatch, capsys):
    (row,) = json.loads(command(monkeypatch, capsys, "list", "--json"))
    perplexity = finished.metrics["perplexity"]["valid"]
    expected = {"name": "small", "source": "papers.tsv", "model": "scratch", "papers": 120, "state": "complete"}
    assert row == row | expected | {"perplexity": perplexity, "step": 6, "steps": 6}
    heading, line = command(monkeypatch, capsys, "list").splitlines()
    assert heading.split() == ["run", "date", "model", "papers", "perplexity", "step", "state"]
    assert line.split() == ["small", row["date"][:10], "scratch", "120", f"{perplexity:.2f}", "6/6", "complete"]
    shown = json.loads(command(monkeypatch, capsys, "show", "small", "--json"))
    assert shown == shown | row and len(shown["texts"]) == 9 and set(shown["stages"]) == set(STAGES)


def test_list_says_how_far_an_unfinished_run_is(project, finished_project, monkeypatch, capsys):
    run = copy_run(project, "copied", finished_project)
    for stage in ("evaluate", "generate"):
        run.clear(stage)
    (run / "metrics.json").write_text("{")
    assert json.loads(command(monkeypatch, capsys, "list", "--json"))[0]["state"] == "done until finetune"
    run.update_stage("finetune", status="running", stopped="stopped at step 4 of 6", steps=None)
    (row,) = json.loads(command(monkeypatch, capsys, "list", "--json"))
    assert row["state"] == "stopped at step 4 of 6" and row["step"] == 6 and row["perplexity"] is None


def test_dry_run_names_what_changed_and_runs_nothing(project, finished_project, monkeypatch, capsys):
    run = copy_run(project, "copied", finished_project)
    monkeypatch.chdir(project)
    (project / "papers.tsv").write_bytes((finished_project / "papers.tsv").read_bytes())
    before = (run / "run.json").read_bytes()

    def plan(*words: str) -> list[str]:
        options = [word for value in ("harvest.path=papers.tsv", *SMALL) for word in ("-p", value)]
        words = ("run", "scratch-titles", "--name", "copied", "--dry-run", *options, *words)
        return command(monkeypatch, capsys, *words).splitlines()

    assert plan() == [f"[{n}/5] {stage}: unchanged, skipped" for n, stage in enumerate(STAGES, 1)]
    lines = plan("-p", "finetune.steps=9")
    assert "[3/5] finetune: runs: finetune.steps: 6 -> 9 (" in lines[2] and "s last time)" in lines[2]
    assert "memory: about" in lines[3] and "disk: up to" in lines[3]
    assert "generate: runs if an earlier result changes" in lines[4]
    with (project / "papers.tsv").open("a") as file:
        file.write("\n")
    path = project / "notebooks" / "02_corpus.ipynb"
    path.write_text(path.read_text().replace("corpus.splits()", "corpus.splits() "))
    (run / "texts.jsonl").unlink()
    lines = plan("--until", "generate")
    assert "harvest: runs: papers.tsv has changed" in lines[0] and "corpus: runs: its notebook has changed" in lines[1]
    assert "texts.jsonl is damaged or missing" in lines[-1]
    assert (run / "run.json").read_bytes() == before and Run("copied").is_current("finetune")


def test_lines_of_both_streams_are_in_order_in_a_file(tmp_path):
    script = (
        "import sys; from titlesmith import cli\n"
        "def command():\n    print('first'); print('second', file=sys.stderr); print('third')\n"
        "cli.app = command; cli.main()"
    )
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", script], stdout=log, stderr=log, check=True)
    assert (tmp_path / "log").read_text().split() == ["first", "second", "third"]


def test_finish_refuses_a_run_that_has_nothing_to_finish(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["titlesmith", "finish", "small"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "small has no interrupted training with a checkpoint" in capsys.readouterr().err


def test_reading_a_notebook_compiles_no_grammar():
    script = "import sys, titlesmith.pipeline; sys.exit(bool(sys.modules['rfc3987_syntax']))"
    subprocess.run([sys.executable, "-c", script], check=True)
