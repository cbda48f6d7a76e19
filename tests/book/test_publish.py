import shutil
import subprocess

import pytest

from conftest import copy_run, make_project
from titlesmith.book import publish as publishing
from titlesmith.book.build import Book
from titlesmith.book.publish import publish as _publish
from titlesmith.cli import describe_commands
from titlesmith.errors import RequestError, StageError
from titlesmith.runs.mirror import MARKER


def publish(target):
    return _publish(target, describe_commands())


def git(folder, *arguments):
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_runs_that_another_project_published_stay(finished_project, tmp_path, monkeypatch):
    site, one, other = tmp_path / "site", make_project(tmp_path / "one"), make_project(tmp_path / "other")
    shutil.copytree(finished_project / "runs" / "small", one / "runs" / "small")
    monkeypatch.setenv("TITLESMITH_ROOT", str(other))
    copy_run(other, "second", finished_project)
    (site / ".git").mkdir(parents=True)
    (site / "CNAME").write_text("example.org")
    monkeypatch.setenv("TITLESMITH_ROOT", str(one))
    publish(str(site))
    assert "small" in (site / "book" / "index.html").read_text()
    monkeypatch.setenv("TITLESMITH_ROOT", str(other))
    book = publish(str(site))
    assert {report.name for report in book.shown} == {"small", "second"}
    for name in ("small", "second"):
        assert (site / "book" / "runs" / name / "03_finetune.html").is_file()
        assert f'href="runs/{name}/index.html"' in (site / "book" / "runs.html").read_text()
    assert (site / "CNAME").exists() and (site / ".nojekyll").exists() and (site / ".git").exists()
    assert not (site / "runs" / "small" / "model").exists() and (site / "runs" / "small" / "lesson.json").exists()


@pytest.fixture
def repository(project, tmp_path_factory, monkeypatch):
    """A project that is a repository whose origin is a bare one; building is a page for each word of `words`."""
    origin = tmp_path_factory.mktemp("origin")
    git(origin, "init", "--bare", "--quiet")
    git(project, "init", "--quiet")
    git(project, "config", "user.name", "A")
    git(project, "config", "user.email", "a@example.org")
    git(project, "remote", "add", "origin", str(origin))
    (project / ".gitignore").write_text("_build/\n*.js\n")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "-m", "project")

    def build(commands, published):
        html = project / "_build" / "html"
        shutil.rmtree(html, ignore_errors=True)
        earlier = [path.name for path in (published / "runs").glob("*")]
        for name in {*earlier, *build.words}:
            (html / "runs" / name).mkdir(parents=True)
            (html / "runs" / name / "run.json").write_text("{}")
        (html / "index.html").write_text(" ".join(build.words))
        (html / "search.js").write_text("ignored by the project, not by the book")
        return Book(html / "index.html", [], {})

    build.words = ["one"]
    monkeypatch.setattr(publishing, "build", build)
    return origin, build


def test_a_branch_is_published_with_a_separate_history_and_keeps_its_runs(repository, project):
    origin, build = repository
    publish("gh-pages")
    build.words = ["two"]
    publish("gh-pages")
    publish("gh-pages")
    listed = git(origin, "ls-tree", "-r", "--name-only", "gh-pages").splitlines()
    assert listed == [".nojekyll", MARKER, "index.html", "runs/one/run.json", "runs/two/run.json", "search.js"]
    assert git(origin, "rev-list", "--count", "gh-pages") == "2", "nothing new makes no commit"
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "branch", "--format", "%(refname:short)").count("\n") == 0
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_a_rejected_push_is_an_error_and_changes_nothing(repository, project):
    origin, build = repository
    publish("gh-pages")
    before = git(origin, "rev-parse", "gh-pages")
    hook = origin / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    hook.chmod(0o755)
    build.words = ["two"]
    with pytest.raises(StageError, match="git push"):
        publish("gh-pages")
    assert git(origin, "rev-parse", "gh-pages") == before
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_an_invalid_target_is_an_error_before_anything_is_built(project, monkeypatch):
    monkeypatch.setattr(publishing, "build", lambda commands, published: pytest.fail("built"))
    with pytest.raises(StageError, match="git"):
        publish("gh-pages")
    with pytest.raises(RequestError, match="did not write it"):
        publish(str(project / "notebooks"))
    with pytest.raises(RequestError, match="is a file"):
        publish(str(project / "_toc.yml"))
    for path in (project, project.parent, project / "_build" / "html"):
        with pytest.raises(RequestError, match="another folder"):
            publish(str(path))


def test_a_branch_of_somebody_else_is_not_replaced(repository, project):
    origin, _ = repository
    git(project, "push", "origin", "HEAD:refs/heads/gh-pages")
    before = git(origin, "rev-parse", "gh-pages")
    with pytest.raises(RequestError, match="titlesmith did not write it"):
        publish("gh-pages")
    assert git(origin, "rev-parse", "gh-pages") == before
