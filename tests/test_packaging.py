import ast
import platform
import re
import subprocess
import sys
import threading
import tomllib
import zipfile
from email.parser import Parser
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT, shared
from titlesmith import package
from titlesmith.errors import RequestError
from titlesmith.runs import STAGES, notebook


def read_pins(path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS, COLAB = read_pins(ROOT / "constraints.txt"), read_pins(ROOT / "tests" / "colab.txt")
REQUIRED = {"jupyterlab", "papermill", "gpt-2-simple", "tensorflow", "arxiv", "matplotlib", "jupyter-book"}
LINUX = ("linux", "x86_64")
ENVIRONMENT = {"python_version": "3.13", "python_full_version": "3.13.5"}


def requirements(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [r for e in extras for r in EXTRAS[e]]
    return [r for r in map(Requirement, lines) if r.name != "titlesmith"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built once."""
    return next(shared(tmp_path_factory, "wheel", package.write_wheel).glob("*.whl"))


def read_requirements(wheel) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return [Requirement(line) for line in Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")]


def test_every_requirement_is_pinned_within_its_range():
    for requirement in requirements(*EXTRAS):
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_environment_yml_installs_the_same_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [d.removeprefix("python=") for d in conda if isinstance(d, str) and d.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    (pip,) = [d["pip"] for d in conda if isinstance(d, dict)]
    assert pip[0] == "--constraint constraints.txt"
    assert pip[-1] == "--editable .[book,lab]"
    listed = dict(line.split("==") for line in pip[1:-1])
    assert set(listed) == REQUIRED <= {canonicalize_name(r.name) for r in requirements("book", "lab")}
    assert all(PINS[name] == version for name, version in listed.items())
    assert "titlesmith[app,book,hf,lab,near,search]" in EXTRAS["dev"], "make setup installs them all"


def test_the_version_is_the_same_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_every_import_is_declared():
    known, declared = packages_distributions(), {canonicalize_name(r.name) for r in requirements(*EXTRAS)}
    inner = {"starlette": "gradio", "fastapi": "gradio", "uvicorn": "gradio"}  # used with what brings them
    for path in (ROOT / "src").rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        for node in (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in {n.partition(".")[0] for n in names if n}:
                if name not in sys.stdlib_module_names and name != "titlesmith":
                    origins = {canonicalize_name(n) for n in known.get(inner.get(name, name), [name])}
                    assert origins & declared, f"{path} imports {name} of {origins}"


def test_the_core_needs_no_page_builder_no_notebook_server_and_no_second_framework():
    core = {canonicalize_name(r.name) for r in requirements()}
    assert not core & {"jupyterlab", "jupyter-book", "sphinx", "torch", "transformers", "gradio", "playwright"}


@pytest.mark.parametrize("extra", ["", "hf"])
def test_in_colab_nothing_that_is_installed_changes(wheel, extra):
    """Resolves the wheel: whatever Colab has must do; the rest is new, and what it needs in turn must do too."""
    new, queue = set(), [("titlesmith", r, extra) for r in read_requirements(wheel)]
    while queue:
        parent, requirement, wanted = queue.pop()
        name, marker = canonicalize_name(requirement.name), requirement.marker
        if marker and not any(marker.evaluate(ENVIRONMENT | {"extra": e}) for e in {"", wanted}):
            continue
        if name in COLAB:
            assert requirement.specifier.contains(COLAB[name], prereleases=True), f"{parent} needs {requirement}"
        elif name not in new:
            new.add(name)
            assert PINS[name] == distribution(name).version
            queue += [(name, Requirement(r), "") for r in distribution(name).requires or []]
    assert {"arxiv", "gpt-2-simple", "papermill"} <= new, "it installs what Colab lacks"
    assert not new & {"torch", "tensorflow", "numpy", "ipykernel", "sphinx"}
    assert len(new) < 25


def test_the_wheel_carries_a_project(wheel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = package.init(Path("demo"))
    for name in ("_config.yml", "_toc.yml", "book", "environment.yml", "experiments", "notebooks", wheel.name):
        assert name in names
    for stage in STAGES:
        own = tmp_path / "demo" / "notebooks" / notebook(stage).name
        assert own.read_bytes() == (ROOT / "notebooks" / own.name).read_bytes()
    (pip,) = [
        d["pip"]
        for d in yaml.safe_load((tmp_path / "demo" / "environment.yml").read_text())["dependencies"]
        if isinstance(d, dict)
    ]
    assert pip[-1] == f"./{wheel.name}[book,lab]"
    assert (tmp_path / "demo" / wheel.name).read_bytes() == wheel.read_bytes(), "equal sources, equal bytes"
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.removeprefix(package.PROJECT) for name in archive.namelist() if package.PROJECT in name}
    committed = subprocess.run(["git", "ls-files", "book", "experiments", "notebooks"], cwd=ROOT, capture_output=True)
    missing = set(committed.stdout.decode().split()) - carried
    assert not missing
    assert not [name for name in carried if "/runs/" in name or "mathjax" in name], "what a build wrote is not in it"
    with pytest.raises(RequestError, match="not empty"):
        package.init(tmp_path / "demo")


@pytest.fixture
def installed(wheel, tmp_path):
    """A folder with the package as pip installs it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    return tmp_path / "installed"


def test_an_installed_package_is_packed_again(wheel, installed, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "CHECKOUT", installed)
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    again = package.write_wheel(tmp_path / "again")
    assert again.name == wheel.name
    with zipfile.ZipFile(again) as archive, zipfile.ZipFile(wheel) as first:
        assert sorted(archive.namelist()) == sorted(first.namelist())
        assert all(archive.read(name) == first.read(name) for name in first.namelist() if "RECORD" not in name)


def test_outside_of_a_project_the_commands_say_so(installed, tmp_path):
    for command in (["run", "sample-small"], ["list"], ["book"]):
        environment = {"PATH": "", "PYTHONPATH": str(installed)}
        command = [sys.executable, "-m", "titlesmith", *command]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "not in a titlesmith project; make one: titlesmith init" in done.stderr


def test_no_file_names_an_address_or_an_index_that_may_belong_to_a_stranger():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix not in (".png", ".npz") and path.is_file() and path != ROOT / "tests" / "test_packaging.py":
            text = path.read_text("utf-8")
            assert not re.search(r"github\.com/titlesmith|pip install ['\"]?titlesmith\b(?![-_]\d)", text), name
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert config["repository"]["url"] == "", "it follows from the clone"


def test_the_cpu_builds_of_pytorch_are_used_only_where_their_index_answers():
    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/cpu/torch/" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    def ask(address: str) -> str:
        environment = {"PATH": "", "TORCH_CPU_INDEX": address}  # without nvidia-smi
        command = [sys.executable, ROOT / ".ci" / "torch_index.py"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    with HTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        expected = f"--extra-index-url {address}/cpu" if (sys.platform, platform.machine()) == LINUX else ""
        assert ask(f"{address}/cpu") == expected
        assert ask(f"{address}/other") == ""
        server.shutdown()
    assert ask(address) == ""


def test_an_active_conda_environment_is_used_and_base_is_not():
    def plan(**variables: str) -> str:
        command = ["make", "--dry-run", "--always-make", "setup", *(f"{k}={v}" for k, v in variables.items())]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    used = plan(CONDA_DEFAULT_ENV="mine", CONDA_PREFIX="/conda/envs/mine")
    assert "/conda/envs/mine/bin/python -m pip install" in used and ".venv" not in used
    for base in (plan(CONDA_DEFAULT_ENV="base", CONDA_PREFIX="/conda"), plan(CONDA_DEFAULT_ENV="", CONDA_PREFIX="")):
        assert "-m venv --clear .venv" in base and "/conda/" not in base


def test_make_book_installs_no_pytorch():
    command = ["make", "--dry-run", "--always-make", "book"]
    plan = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "'.[book]'" in plan and "[dev]" not in plan
    assert not {r.name for r in requirements("book")} & {"torch", "gradio", "playwright"}


def test_other_versions_of_python_are_refused_with_the_reason():
    program = (ROOT / ".ci" / "check_python.py").read_text()
    for version, reason in (
        ((3, 14, 0), "TensorFlow has no build for Python 3.14"),
        ((3, 10, 1), "needs Python 3.11.5"),
    ):
        fake = f"import sys\nsys.version_info = {version}\n{program}"
        done = subprocess.run([sys.executable, "-c", fake], capture_output=True, text=True)
        assert done.returncode == 1 and reason in done.stderr
    subprocess.run([sys.executable, ROOT / ".ci" / "check_python.py"], check=True)
