import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
REQUIRED = {"jupyterlab", "papermill", "gpt-2-simple", "tensorflow", "arxiv", "matplotlib", "jupyter-book"}


def requirements(*extras: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] + [r for e in extras for r in PROJECT["optional-dependencies"][e]]
    return [r for r in map(Requirement, lines) if r.name != "titlesmith"]


def test_every_requirement_is_pinned_within_its_range():
    for requirement in requirements(*PROJECT["optional-dependencies"]):
        assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)]), requirement


def test_environment_yml_installs_the_same_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = [d.removeprefix("python=") for d in conda if isinstance(d, str) and d.startswith("python=")]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    (pip,) = [d["pip"] for d in conda if isinstance(d, dict)]
    assert pip[0] == "--constraint constraints.txt"
    assert pip[-1] == "--editable .[dev]"
    listed = dict(line.split("==") for line in pip[1:-1])
    assert set(listed) == {canonicalize_name(r.name) for r in requirements()}
    assert all(PINS[name] == version for name, version in listed.items())
    assert set(listed) >= REQUIRED


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
