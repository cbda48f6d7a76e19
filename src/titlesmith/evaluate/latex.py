"""LaTeX: how many of the texts with formulas or macros parse."""

import re

from pylatexenc.latexwalker import LatexWalker, LatexWalkerError

from titlesmith.evaluate.measurement import Measurement, MissingError, share

PERCENT = re.compile(r"(?<!\\)%")  # in running text, where LaTeX would read a comment


def parses(text: str) -> bool:
    """Whether a text's braces, dollar signs, environments and arguments are complete, as pylatexenc reads them."""
    try:
        LatexWalker(PERCENT.sub(r"\\%", text), tolerant_parsing=False).get_latex_nodes()
    except (LatexWalkerError, RecursionError):
        return False
    return True


def latex_parses(texts: list[str]) -> Measurement:
    """The share that parses of the texts with a dollar sign or a backslash (MissingError if none has one)."""
    marked = [text for text in texts if "$" in text or "\\" in text]
    if not marked:
        raise MissingError("no text has LaTeX")
    return share(list(map(parses, marked)))
