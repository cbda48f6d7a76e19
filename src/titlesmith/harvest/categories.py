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
    """Checks that names of categories are arXiv's (RequestError, with the nearest names)."""
    for category in categories:
        if _is_category(category):
            continue
        if category in ARCHIVES:
            raise RequestError(
                f"harvest.categories: {category!r} is an archive of several categories: name those wanted"
            )
        similar = [_nearest_category(word) for word in re.split(r"[\s,;]+", category[:200].strip())]
        hint = f". Did you mean {','.join(similar)}?" if all(map(_is_category, similar)) else ""
        raise RequestError(
            f"harvest.categories: {shorten(category)} is not a category of arXiv, such as cs.CL or hep-th{hint}"
        )


def oai_set(category: str) -> str:
    """The OAI-PMH set of a category: ``eess:eess:AS``, ``physics:hep-th``, ``physics:astro-ph:GA``."""
    archive = category.partition(".")[0]
    return f"{'physics' if archive in PHYSICS else archive}:{category.replace('.', ':')}"


def _is_category(name: str) -> bool:
    archive, dot, part = name.partition(".")
    if not dot:
        return name in UNDIVIDED
    return archive in ARCHIVES and bool(re.fullmatch(r"[a-z]+(-[a-z]+)?" if archive in NAMED else r"[A-Z]{2}", part))


def _nearest_category(name: str) -> str:
    archive, _, part = re.sub(r"[/:_]", ".", name).partition(".")
    known = nearest(archive, ARCHIVES, 0.6) or archive
    return ".".join(filter(None, (known, part.lower() if known in NAMED else part.upper())))
