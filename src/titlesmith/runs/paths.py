"""Paths: the project's folder, its stages, and their notebooks."""

import os
from pathlib import Path

from titlesmith.errors import RequestError

STAGES = ("harvest", "corpus", "finetune", "generate", "evaluate")


def root() -> Path:
    """The project: ``TITLESMITH_ROOT``, the nearest parent folder with notebooks, the checkout, or this folder."""
    if folder := os.environ.get("TITLESMITH_ROOT"):
        return Path(folder).resolve()
    here, checkout = Path.cwd(), Path(__file__).parents[3]
    return next((p for p in (here, *here.parents, checkout) if (p / "notebooks" / "01_harvest.ipynb").is_file()), here)


def project() -> Path:
    """The project, as `root`; outside of a project, it is a RequestError."""
    if not (root() / "notebooks" / "01_harvest.ipynb").is_file():
        raise RequestError(f"{root()} is not in a titlesmith project; make one: titlesmith init FOLDER, then cd FOLDER")
    return root()


def notebook(stage: str) -> Path:
    """The notebook of a stage: the project's, or the installed package's if the project has none (as on Colab)."""
    name = f"{STAGES.index(stage) + 1:02d}_{stage}.ipynb"
    own = root() / "notebooks" / name
    return own if own.is_file() else shipped() / "notebooks" / name


def shipped() -> Path:
    """The files of a project that come with titlesmith: in the installed package, or the checkout."""
    installed = Path(__file__).parents[1] / "project"
    return installed if installed.is_dir() else Path(__file__).parents[3]
