"""Names of arXiv's categories (https://arxiv.org/category_taxonomy)."""

import re

from titlesmith.errors import RequestError, shorten
from titlesmith.hints import nearest

PHYSICS = ["astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th", "math-ph", "nlin", "nucl-ex"]
PHYSICS += ["nucl-th", "physics", "quant-ph"]
ARCHIVES = [*PHYSICS, "cs", "econ", "eess", "math", "q-bio", "q-fin", "stat"]
UNDIVIDED = set(PHYSICS) - {"nlin", "physics"}  # archives that are, or once were, categories themselves
NAMED = ("cond-mat", "physics")  # archives whose categories have words as names, such as physics.acc-ph


def check_categories(categories: list[str]) -> None:
    """Checks that names are arXiv's categories or archives (RequestError, with the nearest names)."""
    for category in categories:
        if _is_valid(category):
            continue
        archive, dot, part = re.sub(r"[/:_]", ".", category).partition(".")
        archive = nearest(archive, ARCHIVES, 0.6) or archive
        similar = f"{archive}{dot}{part.lower() if archive in NAMED else part.upper()}"
        hint = f". Did you mean {similar}?" if _is_valid(similar) else ""
        raise RequestError(
            f"harvest.categories: {shorten(category)} is not a category or an archive of arXiv, such as cs.CL, hep-th "
            f"or cs{hint}"
        )


def search_term(category: str) -> str:
    """The term of arXiv's search API for a category, or for all of an archive."""
    return f"cat:{category}{'*' if category in UNDIVIDED else '.*' if category in ARCHIVES else ''}"


def oai_set(category: str) -> str:
    """The OAI-PMH set of a category or an archive: ``eess:eess:AS``, ``physics:astro-ph:GA``, ``cs:cs``."""
    archive = category.partition(".")[0]
    return f"{'physics' if archive in PHYSICS else archive}:{category.replace('.', ':')}"


def _is_valid(name: str) -> bool:
    archive, dot, part = name.partition(".")
    pattern = r"[a-z]+(-[a-z]+)?" if archive in NAMED else r"[A-Z]{2}"
    return archive in ARCHIVES and (not dot or bool(re.fullmatch(pattern, part)))
