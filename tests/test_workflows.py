"""The workflows of GitHub Actions: what they may do, whose code they run, and that the deployment publishes."""

import re
import subprocess

import pytest
import yaml

from conftest import ROOT

WORKFLOWS = {path.name: path.read_text() for path in sorted((ROOT / ".github" / "workflows").iterdir())}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_reads_and_only_the_job_that_deploys_writes(name):
    workflow = yaml.safe_load(WORKFLOWS[name])
    assert workflow["permissions"] == {"contents": "read"}
    for job, content in workflow["jobs"].items():
        if job == "deploy":
            commands = " ".join(step.get("run", "") for step in content["steps"])
            assert content["permissions"] == {"contents": "write"}
            assert not re.search(r"make|python|titlesmith|pip", commands), "it runs none of the project's code"
        elif job == "keep-alive":
            assert content["permissions"] == {"actions": "write"}
            assert [step["run"].split()[:2] for step in content["steps"]] == [["gh", "api"]]
        elif job == "publish":
            assert content["permissions"] == {"id-token": "write"} and content["environment"] == "pypi"
            assert not any("run" in step for step in content["steps"]), "it runs none of the project's code"
        else:
            assert "permissions" not in content
            for step in content["steps"]:
                assert "actions/checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False


def test_both_workflows_deploy_alike_and_one_after_the_other():
    book, daily = (yaml.safe_load(WORKFLOWS[name]) for name in ("book.yml", "daily.yml"))
    assert book["jobs"]["deploy"] == daily["jobs"]["deploy"] and book["concurrency"] == daily["concurrency"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_with_their_version(name):
    used = re.findall(r"uses:(.*)", WORKFLOWS[name])
    assert used and all(re.fullmatch(r" [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)


def test_the_deployment_commits_the_site_to_its_branch(tmp_path):
    def git(*words: str, at=tmp_path) -> str:
        return subprocess.run(["git", *words], cwd=at, check=True, capture_output=True, text=True).stdout

    (step,) = [s["run"] for s in yaml.safe_load(WORKFLOWS["book.yml"])["jobs"]["deploy"]["steps"] if "run" in s]
    git("init", "--bare", "--initial-branch", "main", "origin.git")
    git("clone", "origin.git", "project")
    project = tmp_path / "project"
    (project / "code.py").write_text("1")
    (project / ".gitignore").write_text("*.html\n")
    git("add", "--all", at=project)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "code", at=project)
    git("push", "origin", "HEAD:main", at=project)
    (project / "site" / "book").mkdir(parents=True)
    for version in ("one", "two"):
        (project / "site" / ".nojekyll").touch()
        (project / "site" / "book" / "index.html").write_text(version)
        subprocess.run(["bash", "-e", "-c", step], cwd=project, check=True, capture_output=True)
        assert git("show", "gh-pages:book/index.html", at=tmp_path / "origin.git") == version
    files = git("ls-tree", "-r", "--name-only", "gh-pages", at=tmp_path / "origin.git").split()
    assert files == [".nojekyll", "book/index.html"]
    assert git("rev-list", "--count", "gh-pages", at=tmp_path / "origin.git").strip() == "2"


def test_published_runs_are_fetched_and_a_silent_repository_fails(tmp_path):
    def git(*words: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        subprocess.run(command, cwd=tmp_path / "project", check=True, capture_output=True)

    steps = [job["steps"] for job in (yaml.safe_load(WORKFLOWS[n])["jobs"]["build"] for n in ("book.yml", "daily.yml"))]
    (first,), (second,) = [[s["run"] for s in own if "ls-remote" in s.get("run", "")] for own in steps]
    lines = re.findall(r".*(?:ls-remote|FETCH_HEAD).*", first)
    assert lines == re.findall(r".*(?:ls-remote|FETCH_HEAD).*", second) and len(lines) == 2
    (tmp_path / "project" / "site").mkdir(parents=True)
    git("init", "--bare", "../origin.git")
    git("init")

    def fetch() -> int:
        return subprocess.run(["bash", "-e", "-c", "\n".join(lines)], cwd=tmp_path / "project").returncode

    assert fetch() > 0, "there is no address"
    git("remote", "add", "origin", str(tmp_path / "origin.git"))
    assert fetch() == 0 and not list((tmp_path / "project" / "site").iterdir()), "nothing is published yet"
    (tmp_path / "project" / "index.html").touch()
    git("add", "index.html")
    git("commit", "-m", "one")
    git("push", "origin", "HEAD:gh-pages")
    assert fetch() == 0 and (tmp_path / "project" / "site" / "index.html").exists()


def test_the_jobs_that_users_rely_on_are_there():
    """Three Pythons, macOS, only the wheel, Colab's packages; every week the newest packages and the real arXiv."""
    jobs = yaml.safe_load(WORKFLOWS["ci.yml"])["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["macos"]["runs-on"] == "macos-latest"
    assert "titlesmith init" in str(jobs["wheel"]) and "tests/colab.txt" in str(jobs["colab"])
    assert set(yaml.safe_load(WORKFLOWS["weekly.yml"])["jobs"]) == {"unpinned", "arxiv"}
    for name in ("ci.yml", "weekly.yml"):
        assert yaml.safe_load(WORKFLOWS[name])["env"] == {"TITLESMITH_BROWSER": "required"}


def test_every_action_has_one_version_and_it_is_a_current_major():
    pins = {}
    for text in WORKFLOWS.values():
        for action, pin in re.findall(r"uses: (\S+?)@(\S+ # v\d+)", text):
            pins.setdefault(action, set()).add(pin)
    assert all(len(versions) == 1 for versions in pins.values()), pins
    majors = {action: int(pin.rpartition("v")[2]) for action, (pin,) in pins.items()}
    newest = {
        "actions/checkout": 7,
        "actions/setup-python": 7,
        "actions/upload-artifact": 7,
        "actions/download-artifact": 8,
        "actions/cache": 6,
    }
    assert newest.items() <= majors.items()
