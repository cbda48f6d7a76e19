"""Where readers run the notebooks of a book: in Colab, on Binder, in a clone, or with the wheel that the book carries.

All addresses follow from one, ``repository: url`` in ``_config.yml``; if it is empty, from the git remote ``origin``.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from titlesmith import models
from titlesmith.book.report import Report
from titlesmith.errors import RequestError, shorten
from titlesmith.markup import render
from titlesmith.package import write_wheel
from titlesmith.runs import STAGES, digest, notebook, replacing, root, shipped

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/github/"
PYTHON = "3.12"  # on Binder, whose default is too old
NOTEBOOKS = "_sources/notebooks"  # in the built book


@dataclass(frozen=True)
class Launch:
    """A book's repository (``url``, empty if it is unknown), the branch that serves it, its commit, and its wheel."""

    url: str
    branch: str
    commit: str
    wheel: Path

    @property
    def on_github(self) -> bool:
        """Whether Colab can open the book's notebooks."""
        return self.url.startswith(GITHUB)

    def package(self, extra: str = "") -> str:
        """What pip installs to run this book's notebooks; empty if the repository is unknown."""
        if self.on_github:
            where = f"{self.url}/raw/{self.branch}/{self.wheel.name}#sha256={digest(self.wheel)}"
        else:
            where = self.url and f"git+{self.url}@{self.commit or 'HEAD'}"
        return where and f"titlesmith{extra} @ {where}"

    def parts(self) -> dict[str, str]:
        """The parts of pages with addresses, by name."""
        colab = f"{COLAB}{self.url.removeprefix(GITHUB)}/blob/{self.branch}/{NOTEBOOKS}/colab.ipynb"
        names = {"url": self.url, "commit": self.commit, "wheel": self.wheel.name}
        return {
            "clone": render("clone.md.j2", name=self.url.rpartition("/")[2], **names),
            "colab": render("colab.md.j2", colab=colab if self.on_github else "", notebooks=NOTEBOOKS),
        }

    def config(self) -> dict:
        """The settings of Jupyter Book, with buttons for what the repository allows."""
        config = _read_config()
        config["repository"] = config.get("repository", {}) | {"url": self.url, "branch": self.branch}
        if not self.on_github:
            config.get("launch_buttons", {}).pop("colab_url", None)
        if not self.url:
            del config["repository"]
            config.pop("launch_buttons", None)
            config.setdefault("html", {})["use_repository_button"] = False
        return config

    def adapt(self, files: dict[str, str], report: Report) -> dict[str, str]:
        """A run's files, in which each notebook installs this book's wheel and knows the settings of all stages."""
        settings = {stage: report.record(stage)["settings"] for stage in STAGES}
        extra = "[hf]" if models.hub.is_hub(settings["finetune"]["model"]) else ""
        names = {notebook(stage).name for stage in STAGES}
        return {n: self._adapt(text, extra, settings) if n in names else text for n, text in files.items()}

    def _adapt(self, text: str, extra: str = "", settings: dict | None = None) -> str:
        """A notebook whose first cell with ``%pip`` is replaced, and followed by a run's settings."""
        book = json.loads(text)
        cells = [cell for cell in book["cells"] if not "".join(cell["source"]).startswith("run_settings = ")]
        code = ((i, "".join(cell["source"])) for i, cell in enumerate(cells) if cell["cell_type"] == "code")
        number = next((i for i, source in code if "%pip install" in source), None)
        if number is not None:
            source = re.sub(r"(?m)^PACKAGE = .*$", lambda _: f"PACKAGE = {self.package(extra)!r}", _install_cell())
            cells[number] = cells[number] | {"source": source}
        if settings:
            source = f"run_settings = {settings!r}  # stages that are missing here run first, with these"
            cell = {"cell_type": "code", "id": "run-settings", "metadata": {"tags": ["remove-cell"]}, "source": source}
            cells.insert((number or 0) + 1, cell | {"execution_count": None, "outputs": []})
        return json.dumps(book | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"

    def write(self, html: Path) -> None:
        """Adds to a built book what Colab and Binder read: the wheel, the project's notebooks, Binder's environment."""
        files = {
            "binder/runtime.txt": f"python-{PYTHON}\n",
            # Without PyTorch, it fits the 2 GB of memory there
            "binder/requirements.txt": f"--constraint constraints.txt\n./{self.wheel.name}\n",
            "binder/constraints.txt": (shipped() / "constraints.txt").read_text("utf-8"),
        }
        for path in sorted((root() / "notebooks").glob("*.ipynb")):
            files[f"{NOTEBOOKS}/{path.name}"] = self._adapt(path.read_text("utf-8"), "[hf]" * (path.stem == "colab"))
        for name, text in files.items():
            with replacing(html / name) as temporary:
                temporary.write_text(text, "utf-8")
        for earlier in html.glob("titlesmith-*.whl"):
            earlier.unlink()
        shutil.copyfile(self.wheel, html / self.wheel.name)


def prepare(output: Path) -> Launch:
    """Reads the repository's address and writes the wheel below ``output``.

    Raises
    ------
    RequestError
        The address in ``_config.yml`` is not one.
    StageError
        The wheel cannot be built.
    """
    repository = _read_config().get("repository") or {}
    url, given = repository.get("url") or "", bool(repository.get("url"))
    url = normalize(url or _git("config", "--get", "remote.origin.url"))
    if given and not url:
        raise RequestError(f"_config.yml: repository: url: {shorten(repository['url'])} is not an https address")
    commit = _git("describe", "--tags", "--always") if _git("branch", "--remotes", "--contains", "HEAD") else ""
    commit = commit if re.fullmatch(r"[\w./-]+", commit, re.ASCII) else ""
    return Launch(url, repository.get("branch") or "gh-pages", commit, write_wheel(output / "wheel"))


def normalize(url: str) -> str:
    """The https address of a repository, without a user's name or token; empty if it has none."""
    if ssh := re.fullmatch(r"(?:ssh://)?git@([\w.-]+)[:/](.+)", url):
        url = f"https://{ssh[1]}/{ssh[2]}"
    parts = urlsplit(url)
    address = f"https://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/").removesuffix(".git")
    is_valid = re.fullmatch(r"https://[\w.-]+(:\d+)?(/[\w.~-]+)+", address, re.ASCII)
    return address if parts.scheme in ("http", "https") and is_valid else ""


def _read_config() -> dict:
    return yaml.safe_load((root() / "_config.yml").read_text("utf-8"))


def _install_cell() -> str:
    cells = json.loads(notebook(STAGES[0]).read_text("utf-8"))["cells"]
    return next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # git is not installed
        return ""
