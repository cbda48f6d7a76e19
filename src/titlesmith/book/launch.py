"""Where readers run the notebooks of a book: in Colab, on Binder, in a clone, or with the wheel that the book carries.

All addresses follow from one, ``repository: url`` in ``_config.yml``; if it is empty, from the git remote ``origin``.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from titlesmith import models
from titlesmith.book import write
from titlesmith.errors import RequestError, shorten
from titlesmith.markup import render
from titlesmith.package import write_wheel
from titlesmith.runs import digest, root, shipped

GITHUB = "https://github.com/"
PYTHON = "3.12"  # on Binder, whose default is too old
NOTEBOOKS = "_sources/notebooks"  # in the built book


@dataclass(frozen=True)
class Launch:
    """Addresses of a book."""

    url: str  # of the repository; empty if it is unknown
    branch: str  # which serves the book
    commit: str  # of the project; empty if it is not in the repository
    wheel: Path
    config: dict  # settings of Jupyter Book, with buttons for what the repository allows

    @property
    def on_github(self) -> bool:
        """Whether Colab can open the book's notebooks."""
        return self.url.startswith(GITHUB)

    @property
    def address(self) -> str:
        """The address of the published book, with a slash at its end; empty if it is unknown."""
        if base := self.config.get("html", {}).get("baseurl"):
            return base.rstrip("/") + "/"
        owner, _, name = self.url.removeprefix(GITHUB).partition("/")
        return f"https://{owner.lower()}.github.io/{name}/" if self.on_github else ""

    def package(self, extra: str = "") -> str:
        """What pip installs to run this book's notebooks; empty if the repository is unknown."""
        if self.on_github:
            where = f"{self.url}/raw/{self.branch}/{self.wheel.name}#sha256={digest(self.wheel)}"
        else:
            where = self.url and f"git+{self.url}@{self.commit or 'HEAD'}"
        return where and f"titlesmith{extra} @ {where}"

    def parts(self) -> dict[str, str]:
        """The parts of pages with addresses, by name."""
        return {name: render(f"{name}.md.j2", launch=self, notebooks=NOTEBOOKS) for name in ("clone", "colab")}

    def adapt(self, book: NotebookNode, settings: dict | None = None) -> None:
        """Lets a notebook install this book's wheel, and know the settings of its run by stage, if it has one."""
        any_model = settings is None or models.hub.is_hub(settings["finetune"]["model"])
        package = self.package("[hf]" if any_model else "")
        book.cells = [cell for cell in book.cells if not cell.source.startswith("run_settings = ")]
        for number, cell in enumerate(book.cells):
            if cell.cell_type == "code" and "PACKAGE = " in cell.source:
                cell.source = re.sub(r"(?m)^PACKAGE = .*$", lambda _: f"PACKAGE = {package!r}", cell.source)
                if settings:
                    source = f"run_settings = {settings!r}  # stages that are missing here run first, with these"
                    hidden = {"tags": ["remove-cell"]}
                    book.cells.insert(number + 1, new_code_cell(source, id="run-settings", metadata=hidden))
                break

    def write(self, html: Path) -> None:
        """Adds to a built book what Colab and Binder read: the wheel, the project's notebooks, Binder's environment."""
        files = {
            "binder/runtime.txt": f"python-{PYTHON}\n",
            # Without PyTorch, it fits the 2 GB of memory there
            "binder/requirements.txt": f"--constraint constraints.txt\n./{self.wheel.name}\n",
            "binder/constraints.txt": (shipped() / "constraints.txt").read_text("utf-8"),
        }
        for path in (root() / "notebooks").glob("*.ipynb"):
            book = nbformat.read(path, as_version=4)
            self.adapt(book)
            files[f"{NOTEBOOKS}/{path.name}"] = nbformat.writes(book)
        for name, text in files.items():
            write(html / name, text)
        for earlier in html.glob("titlesmith-*.whl"):
            earlier.unlink()
        shutil.copyfile(self.wheel, html / self.wheel.name)


def prepare(output: Path) -> Launch:
    """Reads the repository's address (RequestError if it is not one), and writes the wheel below ``output``."""
    config = yaml.safe_load((root() / "_config.yml").read_text("utf-8"))
    repository = config.pop("repository", None) or {}
    given, branch = repository.get("url"), repository.get("branch") or "gh-pages"
    url = normalize(given or _git("config", "--get", "remote.origin.url"))
    if given and not url:
        raise RequestError(f"_config.yml: repository: url: {shorten(given)} is not an https address")
    if url:
        config["repository"] = repository | {"url": url, "branch": branch}
    else:
        config.pop("launch_buttons", None)
        config.setdefault("html", {})["use_repository_button"] = False
    if not url.startswith(GITHUB):
        config.get("launch_buttons", {}).pop("colab_url", None)
    commit = _git("describe", "--tags", "--always") if _git("branch", "--remotes", "--contains", "HEAD") else ""
    commit = commit if re.fullmatch(r"[\w./-]+", commit, re.ASCII) else ""
    return Launch(url, branch, commit, write_wheel(output / "wheel"), config)


def normalize(url: str) -> str:
    """The https address of a repository, without a user's name or token; empty if it has none."""
    path = r"([\w.~-]+(?:/[\w.~-]+)*)"
    match = re.fullmatch(rf"(?:https?://(?:[^/@]+@)?|(?:ssh://)?git@)([\w.-]+(?::\d+)?)[:/]{path}/?", url, re.ASCII)
    return f"https://{match[1]}/{match[2].removesuffix('.git')}" if match else ""


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # git is not installed
        return ""
