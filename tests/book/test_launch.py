"""Colab, Binder, clones and the wheel: every address of a built book is that of its repository."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

from conftest import make_project
from titlesmith import notebook as api
from titlesmith.book import launch
from titlesmith.errors import RequestError
from titlesmith.runs import STAGES, Run, digest, notebook

FORK = "https://github.com/someone/fork"


@pytest.fixture
def html(built):
    """The book of a fork."""
    return built.html


def read_cells(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_address_is_that_of_the_fork(html):
    text = {path: path.read_text() for path in html.rglob("*") if path.suffix in (".html", ".ipynb", ".txt", ".md")}
    assert not [path for path, content in text.items() if "titlesmith/titlesmith" in content]
    page = text[html / "book" / "runs" / "small" / "03_finetune.html"]
    source = "gh-pages/_sources/book/runs/small/03_finetune.ipynb"
    assert f"colab.research.google.com/github/someone/fork/blob/{source}" in page
    assert "mybinder.org/v2/gh/someone/fork/gh-pages?urlpath=lab/tree/_sources/book/runs/small/03_finetune" in page
    assert (html / source.removeprefix("gh-pages/")).is_file()
    assert f"git clone {FORK}\ncd fork\nmake setup" in re.sub(r"<[^>]+>", "", text[html / "book" / "tutorial.html"])
    link = "/github/someone/fork/blob/gh-pages/_sources/notebooks/colab.ipynb"
    assert link in text[html / "book" / "colab.html"]


def test_its_notebooks_install_the_wheel_that_it_carries(html):
    (wheel,) = html.glob("*.whl")
    where = f"titlesmith @ {FORK}/raw/gh-pages/{wheel.name}#sha256={digest(wheel)}"
    for stage in STAGES:
        path = html / "_sources" / "book" / "runs" / "small" / notebook(stage).name
        assert f"PACKAGE = {where!r}" in read_cells(path)[0]
        assert "run_settings" not in path.with_suffix("").as_posix()
    form = read_cells(html / "_sources" / "notebooks" / "colab.ipynb")[0]
    assert f"PACKAGE = {where.replace('titlesmith @', 'titlesmith[hf] @')!r}" in form
    assert "run_settings" not in (html / "book" / "runs" / "small" / "04_generate.html").read_text()


def test_binder_reads_its_folder(html):
    """As repo2docker: `binder/` wins, the runtime is python-MAJOR.MINOR, and requirements are relative to the top."""
    assert re.fullmatch(r"python-3\.1[1-3]\n", (html / "binder" / "runtime.txt").read_text())
    lines = (html / "binder" / "requirements.txt").read_text().splitlines()
    assert lines[0] == "--constraint constraints.txt" and (html / "binder" / "constraints.txt").is_file()
    assert lines[1].startswith("./titlesmith-") and (html / lines[1]).is_file() and len(lines) == 2


def test_a_published_notebook_runs_what_its_run_had(html, built, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("TITLESMITH_ROOT", str(tmp_path))
    monkeypatch.setattr(api, "chain", lambda experiment, until: asked.append((experiment, until)) or 1 / 0)
    shutil.copy(built.project / "papers.tsv", tmp_path)
    namespace = {}
    cells = read_cells(html / "_sources" / "book" / "runs" / "small" / "04_generate.ipynb")
    with pytest.raises(ZeroDivisionError):
        for source in cells:
            exec(source.replace("    %pip", "    #"), namespace)
    ((experiment, until),) = asked
    monkeypatch.setenv("TITLESMITH_ROOT", str(built.project))
    for stage in STAGES[:3]:
        assert experiment.settings[stage] == Run("small").record(stage)["settings"]
    assert until == "finetune"
    printed = capsys.readouterr().out
    assert "harvest   source: 'archive', path: 'papers.tsv'" in printed and "steps: 6" in printed


def test_a_notebook_that_was_published_before_is_adapted_again(html, built, tmp_path, monkeypatch):
    monkeypatch.setenv("TITLESMITH_ROOT", str(built.project))
    path = html / "runs" / "small" / "notebooks" / "03_finetune.ipynb"
    settings = {stage: Run("small").record(stage)["settings"] for stage in STAGES}
    before, again = nbformat.read(path, 4), nbformat.read(path, 4)
    launch.Launch(FORK, "gh-pages", "", next(html.glob("*.whl")), {}).adapt(again, settings)
    assert again == before and "run_settings" in str(before)


@pytest.mark.parametrize(
    ("url", "config", "address"),
    [
        ("https://github.com/Reader/book", {}, "https://reader.github.io/book/"),
        ("https://example.org/a/b", {}, ""),
        ("", {"html": {"baseurl": "https://example.org/b"}}, "https://example.org/b/"),
        ("", {}, ""),
    ],
)
def test_the_address_of_the_book_follows_from_its_repository_or_settings(url, config, address):
    assert launch.Launch(url, "", "", Path(), config).address == address


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@gitlab.com/a/b/c.git", "https://gitlab.com/a/b/c"),
        ("https://user:token@github.com/a/b/", "https://github.com/a/b"),
        ("https://example.org:8443/a/b", "https://example.org:8443/a/b"),
        ("/home/me/b", ""),
        ("ftp://a/b", ""),
        ("https://github.com/a/b;x$(y)", ""),
        ("", ""),
    ],
)
def test_an_address_has_no_secrets_and_no_code(origin, expected):
    assert launch.normalize(origin) == expected


def test_without_an_address_there_are_no_buttons_and_a_wrong_one_is_named(tmp_path, monkeypatch):
    project = make_project(tmp_path / "project")
    monkeypatch.setenv("TITLESMITH_ROOT", str(project))
    prepared = launch.prepare(project / "_build")
    assert prepared.package() == "" and prepared.config["html"]["use_repository_button"] is False
    assert "launch_buttons" not in prepared.config and "git clone" not in prepared.parts()["clone"]
    assert "Upload notebook" in prepared.parts()["colab"]
    # The clone's remote is the address; Colab opens GitHub only
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (
        ("init", "-q"),
        ("remote", "add", "origin", "git@gitlab.com:a/b.git"),
        ("commit", "-q", "--allow-empty", "-m", "x"),
        ("update-ref", "refs/remotes/origin/main", "HEAD"),
    ):
        subprocess.run([*git, *command], cwd=project, check=True)
    prepared = launch.prepare(project / "_build")
    assert re.fullmatch(r"titlesmith @ git\+https://gitlab\.com/a/b@[0-9a-f]{7,}", prepared.package())
    assert "colab_url" not in prepared.config["launch_buttons"]
    assert f"git checkout {prepared.commit}" in prepared.parts()["clone"]
    config = yaml.safe_load((project / "_config.yml").read_text())
    config["repository"]["url"] = "ftp://a/b"
    (project / "_config.yml").write_text(yaml.safe_dump(config))
    with pytest.raises(RequestError, match=r"_config.yml: repository: url: 'ftp://a/b'"):
        launch.prepare(project / "_build")
