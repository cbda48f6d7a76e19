"""Fixtures: a separate project folder for each test, tiny models, and where real data lies."""

import csv
import json
import os
import shutil
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TITLESMITH_DATA", ROOT.parent / "shared" / "data"))
hypothesis.settings.register_profile("shared", deadline=None)  # machines may be busy with other work
hypothesis.settings.load_profile("shared")
HOSTILE = '<script>alert(1)</script> $x^2$ & "quotes": a study'


def data(name: str) -> Path:
    """A file of real data; the test is skipped where it is not there."""
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} below {DATA} (set TITLESMITH_DATA)")
    return DATA / name


def corpus_settings(**changes: object) -> dict:
    """The parameters of the corpus notebook, their defaults changed by these."""
    from titlesmith.experiment import declared

    return {name: parameter.default for name, parameter in declared("corpus").items()} | changes


def make_project(path: Path) -> Path:
    """A copy of what the project needs to run and to build the book."""
    for name in ("notebooks", "book", "experiments"):
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("runs", "mathjax"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, path / name)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, which `titlesmith.runs.root` finds."""
    monkeypatch.setenv("TITLESMITH_ROOT", str(make_project(tmp_path)))
    return tmp_path


COLUMNS = ["arxiv_id", "title", "abstract", "author_text", "categories", "primary_cat", "created", "updated", "doi"]


def write_archive(path: Path, rows: list[dict]) -> Path:
    """A file in the ArXiV Archive's form; each row needs a title and may set the other columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["", *COLUMNS], delimiter="\t", restval="", lineterminator="\n")
        writer.writeheader()
        for number, row in enumerate(rows):
            defaults = {
                "arxiv_id": f"2001.{number:05d}",
                "abstract": f"Abstract of {row['title']}",
                "author_text": "A. Author, B. Author",
                "categories": "cs.SD,eess.AS",
                "primary_cat": "eess.AS",
                "created": f"20{10 + number % 10}-01-{1 + number % 28:02d}",
            }
            writer.writerow(defaults | row)
    return path


@pytest.fixture
def archive(tmp_path):
    """An archive of 120 papers, one of them with a title that is hostile to HTML and MathJax."""
    nouns = ["speech", "music", "sound", "voice", "noise", "tempo", "pitch", "echo"]
    verbs = ["recognition", "synthesis", "detection", "separation", "coding"]
    titles = [f"Neural {a} {b} number {i}" for i in range(3) for a in nouns for b in verbs]
    return write_archive(tmp_path / "papers.tsv", [{"title": t} for t in [HOSTILE, *titles[:119]]])


SMALL = [
    "corpus.vocabulary=400",
    "finetune.steps=6",
    "finetune.batch_size=2",
    "finetune.block_size=32",
    "finetune.save_every=2",
    "finetune.sample_every=3",
    "finetune.validate_every=3",
    "generate.count=3",
    "generate.max_tokens=24",
]


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory):
    """A project with one complete run, ``small``, of an archive that holds the hostile title."""
    from titlesmith.experiment import Experiment
    from titlesmith.pipeline import chain

    folder = make_project(tmp_path_factory.mktemp("finished"))
    # Every title is hostile, so that some reach every page whatever is sampled.
    titles = [f"{HOSTILE} number {i} of music and speech" for i in range(120)]
    write_archive(folder / "papers.tsv", [{"title": title} for title in titles])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        read = Experiment.read(folder / "experiments" / "archive-titles.yml", ("harvest.path=papers.tsv", *SMALL))
        chain(read, "small")
    return folder


@pytest.fixture
def finished(finished_project, monkeypatch):
    """The complete run of `finished_project`; tests leave it as it is."""
    from titlesmith.runs import Run

    monkeypatch.setenv("TITLESMITH_ROOT", str(finished_project))
    return Run("small")


def copy_run(project: Path, name: str, of: str = "small"):
    """A finished run of a project again, under another name."""
    from titlesmith.runs import Run, write_json

    path = project / "runs" / name
    shutil.copytree(project / "runs" / of, path)
    write_json(path / "run.json", json.loads((path / "run.json").read_text("utf-8")) | {"name": name})
    return Run(name)
