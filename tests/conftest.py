"""Fixtures: a separate project folder for each test, one finished run for all of them, and where real data lies."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

# Each test process has one core: more threads would wait for one another, and tiny models gain nothing from them
for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(name, "1")

hypothesis.settings.register_profile("shared", deadline=None)  # other programs may slow down a test
hypothesis.settings.load_profile("shared")
ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TITLESMITH_DATA", ROOT.parent / "shared" / "data"))
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
        shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("runs"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, path / name)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, which `titlesmith.runs.root` finds."""
    monkeypatch.setenv("TITLESMITH_ROOT", str(make_project(tmp_path)))
    return tmp_path


# Files of tests by processor time, the longest first: the last minutes have short files only
LONGEST = (
    "test_pipeline", "test_contract", "test_gpt2", "test_sweep", "test_export", "test_build", "test_huggingface",
    "test_distributed", "test_app", "test_benchmarks", "test_update", "test_terminal",
    "test_gpt2_step", "test_evaluate", "test_small_experiments",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


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


def shared(tmp_path_factory, name: str, build: Callable[[Path], None]) -> Path:
    """A folder that one test process builds and all read; the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, built = base / name, base / f"{name}.built"
    with FileLock(base / f"{name}.lock"):
        if not built.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            built.touch()
    return folder


SMALL_SCRATCH = {"n_embd": 48, "n_head": 3, "n_layer": 2}
STARTUP = f"""
from titlesmith.models import SCRATCH

SCRATCH["scratch"] |= {SMALL_SCRATCH}
"""


@pytest.fixture(scope="session", autouse=True)
def small_scratch(tmp_path_factory):
    """Lets the kernels of all tests train a smaller ``scratch``: TensorFlow builds its graph in half of the time."""
    startup = tmp_path_factory.mktemp("ipython") / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "small_scratch.py").write_text(STARTUP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(startup.parents[1]))
        yield


def build_finished(folder: Path) -> None:
    """Runs all notebooks on papers whose titles are all hostile, so that some reach every page."""
    from titlesmith.experiment import Experiment
    from titlesmith.pipeline import chain

    make_project(folder)
    titles = [f"{HOSTILE} number {i} of music and speech" for i in range(120)]
    write_archive(folder / "papers.tsv", [{"title": title} for title in titles])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        read = Experiment.read(folder / "experiments" / "scratch-titles.yml", ("harvest.path=papers.tsv", *SMALL))
        chain(read, "small")


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory, small_scratch):
    """A project with one complete run, ``small``; tests that change it copy it (`copy_run`)."""
    return shared(tmp_path_factory, "finished", build_finished)


@pytest.fixture
def finished(finished_project, monkeypatch):
    """The complete run of `finished_project`, which tests leave unchanged."""
    from titlesmith.runs import Run

    monkeypatch.setenv("TITLESMITH_ROOT", str(finished_project))
    return Run("small")


def execute_here(run, stage: str, settings: dict) -> None:
    """Executes a stage's notebook as `titlesmith.pipeline.execute` does, in this process: a kernel takes seconds."""
    import nbformat
    from IPython.core.inputtransformer2 import TransformerManager

    from titlesmith.runs import notebook

    book, namespace, transform = nbformat.read(notebook(stage), 4), {}, TransformerManager().transform_cell
    for cell in book.cells:
        if cell.cell_type == "code":
            exec(transform(cell.source), namespace)
        if "parameters" in cell.metadata.get("tags", []):
            namespace |= {"run_name": run.name} | settings
    output = run.executed(stage).with_name(f".{notebook(stage).name}")
    output.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, output)
    run.keep_notebook(stage, output)


@pytest.fixture
def in_process(monkeypatch):
    """Lets chains execute notebooks with `execute_here`, where they train the smaller ``scratch`` too."""
    from titlesmith import models

    monkeypatch.setitem(models.SCRATCH, "scratch", models.SCRATCH["scratch"] | SMALL_SCRATCH)
    for module in ("pipeline", "daily"):
        monkeypatch.setattr(f"titlesmith.{module}.execute", execute_here)


def copy_run(project: Path, name: str, source: Path | None = None):
    """A copy of the finished run ``small`` of a project (by default of the same one), under another name."""
    from titlesmith.runs import Run, write_json

    path = project / "runs" / name
    shutil.copytree((source or project) / "runs" / "small", path)
    write_json(path / "run.json", json.loads((path / "run.json").read_text("utf-8")) | {"name": name})
    return Run(name)
