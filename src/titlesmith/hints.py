"""Hints: the valid name nearest to a wrong one, also where other programs use another word for the same thing."""

import json
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.metadata import requires
from pathlib import Path

# titlesmith's name: names that other programs use and that are spelled differently
COMMON = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
NAME = {other.lower(): name for name, others in COMMON.items() for other in others.split()}


def nearest(name: object, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The one of ``names`` that is most likely meant, with a similarity of at least ``cutoff``; else None."""
    by_lower = {known.lower(): known for known in names}
    lower = str(name)[:100].lower().strip()
    if (common := NAME.get(lower)) in by_lower.values():
        return common
    near = get_close_matches(lower, by_lower, 1, cutoff)
    return by_lower[near[0]] if near else None


def did_you_mean(name: object, names: Iterable[str], cutoff: float = 0.5) -> str:
    """A hint for the end of a message, with a space before it; empty if no name is near."""
    near = nearest(name, names, cutoff)
    return f" Did you mean {near}?" if near else ""


def extra_packages(extra: str) -> list[str]:
    """The requirements of one of titlesmith's extras, such as ``gradio>=5``."""
    lines = (line.partition("; extra == ") for line in requires("titlesmith") or ())
    return [package for package, _, name in lines if name.strip("'\"") == extra]


def install_command(extra: str) -> str:
    """The command that installs the packages of an extra; it names them, since no index need have titlesmith."""
    return f"pip install {' '.join(map(repr, extra_packages(extra)))}"
