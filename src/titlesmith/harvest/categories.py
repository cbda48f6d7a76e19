"""Names of arXiv's categories and archives, of ``categories.json`` (https://arxiv.org/category_taxonomy)."""

import json
from pathlib import Path

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import did_you_mean

# By OAI-PMH's groups of archives: each archive, followed by its categories
GROUPS: dict[str, list[str]] = json.loads(Path(__file__).with_name("categories.json").read_text("utf-8"))


def check_categories(categories: list[str]) -> None:
    """Checks that names are arXiv's categories or archives (RequestError, with the nearest name)."""
    names = [name for group in GROUPS.values() for name in group]
    for category in categories:
        if category not in names:
            raise RequestError(
                f"harvest.categories: {shorten(category)} is not a category or an archive of arXiv, such as cs.CL, "
                f"hep-th or cs.{did_you_mean(category, names, 0.7)}"
            )


def search_term(category: str) -> str:
    """The term of arXiv's search API for a category, or for all of an archive."""
    # Archives of physics are, or once were, categories themselves
    return f"cat:{category}{'' if '.' in category else '*' if category in GROUPS['physics'] else '.*'}"


def oai_set(category: str) -> str:
    """The OAI-PMH set of a category or an archive: ``eess:eess:AS``, ``physics:astro-ph:GA``, ``cs:cs``."""
    group = next(group for group, names in GROUPS.items() if category in names)
    return f"{group}:{category.replace('.', ':')}"
