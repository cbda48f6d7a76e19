"""YAML in which text stays text: scalars are not turned into numbers, dates or booleans; hostile files are refused."""

import re
from collections import Counter

import yaml

from titlesmith.errors import shorten

MAX_DEPTH = 20  # of lists and mappings in one another


class _Loader(getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
    """Leaves scalars as text; a missing value, as after ``query:``, is None."""

    def construct_scalar(self, node: yaml.Node) -> str | None:
        return super().construct_scalar(node) if node.value or node.style else None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        counts = Counter(str(key.value) for key, _ in node.value)
        if (twice := max(counts, key=counts.get, default="")) and counts[twice] > 1:
            raise yaml.YAMLError(f"the key {shorten(twice)} is there twice")
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> object:
    """YAML as a tree of str, list and dict in which every scalar is the text as written: ``On``, ``12:30``, ``null``.

    A ValueError of one line says why it is not one document, or that it is nested too deeply.
    """
    depth = 0
    try:
        for event in yaml.parse(text, _Loader):  # before a tree exists, which aliases could make exponentially large
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise yaml.YAMLError("it is nested too deeply")
            if isinstance(event, yaml.CollectionStartEvent) and event.anchor:
                raise yaml.YAMLError("an alias (*name) must be of a single value")
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        why = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise ValueError(why[:200]) from None


def split_items(text: str) -> list:
    """The items of a list as typed: YAML in brackets, else texts between commas, such as ``[MASK], a``."""
    if text.startswith("[") and text.endswith("]"):
        try:
            if isinstance(tree := read_yaml(text), list):
                return tree
        except ValueError:
            pass
    return re.split(", ?", text) if text else []
