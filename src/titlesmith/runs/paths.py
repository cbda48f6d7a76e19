"""Paths: the project's folder, its stages, and their notebooks."""

import os
from pathlib import Path

STAGES = ("harvest", "corpus", "finetune", "generate", "evaluate")


def root() -> Path:
    """The project: ``TITLESMITH_ROOT``, the nearest parent folder with notebooks, the checkout, or this folder."""
    if folder := os.environ.get("TITLESMITH_ROOT"):
        return Path(folder).resolve()
    here, checkout = Path.cwd(), Path(__file__).parents[3]
    return next((p for p in (here, *here.parents, checkout) if (p / "notebooks" / "01_harvest.ipynb").is_file()), here)


def notebook(stage: str) -> Path:
    """The notebook of a stage: the project's, or the installed package's if the project has none (as on Colab)."""
    name = f"{STAGES.index(stage) + 1:02d}_{stage}.ipynb"
    project = root() / "notebooks" / name
    return project if project.is_file() else Path(__file__).parents[1] / "notebooks" / name
