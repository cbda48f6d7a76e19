r"""LaTeX in running text: accents and letters written as macros become characters; mathematics stays as it is.

arXiv keeps titles and abstracts as they were typed: ``Fr\'echet``, ``Schr{\"o}dinger``, ``Wroc{\l}aw``. What each
macro means is pylatexenc's to know. Dashes, quotation marks and ties (``--``, ``''``, ``~``) stay, as arXiv shows them,
and so does markup (``\emph{...}``).
"""

import re
import unicodedata
from functools import cache

from pylatexenc.latex2text import LatexNodes2Text, get_default_latex_context_db

# What pylatexenc takes for mathematics or makes more than a character of
OURS = {"deg": "°", "S": "§", "P": "¶", "copyright": "©", "pounds": "£", "ldots": "…", "dots": "…"}
MATH = r"\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\(.*?\\\)|\\\[.*?\\\]"
MACRO = r"\\[A-Za-z]+"
MARK = r"\\(?:[`'^\"~=.]|[uvHcdbkr](?![A-Za-z]))\s*"
LETTER = rf"(?:[A-Za-z]|\{{\s*(?:[A-Za-z]|{MACRO}\s*)\}}|\\(?:[ij]|ae|AE|o|O|aa|AA)(?![A-Za-z])\s*)"
ACCENT = rf"{MARK}(?:{LETTER}|\{{\s*{MARK}{LETTER}\s*\}})"
END = r"(?:\{\}|\s+|(?![A-Za-z]))"  # as in LaTeX, the space behind a macro's name belongs to the name
TOKEN = re.compile(
    rf"(?P<math>{MATH})|\{{\s*(?P<group>{ACCENT}|{MACRO})\s*\}}|(?P<accent>{ACCENT})"
    rf"|(?P<macro>{MACRO}){END}(?P<open>\{{?)|(?P<other>\\.)",
    re.DOTALL,
)
ESCAPED = {rf"\{c}": c for c in "%&#_ "}


def characters(text: str) -> str:
    r"""Text with its accents, letters, Greek letters and text symbols as characters, and without escapes.

    ``\%``, ``\&``, ``\#``, ``\_`` and the control space lose their backslash; ``\$`` keeps it, so that no amount of
    money opens a formula. Between dollar signs, ``\(`` and ``\)``, ``\[`` and ``\]`` nothing changes. A macro that has
    no letter or sign of running text to its name (``\emph``, ``\sim``, ``\~f``) stays.
    """
    while "\\" in text and (new := TOKEN.sub(_replace, text)) != text:
        text = new  # until nothing changes: what one replacement leaves may be part of another
    return text


def _replace(match: re.Match) -> str:
    whole = match[0]
    if match["group"]:
        return _character(match["group"]) or "{" + TOKEN.sub(_replace, whole[1:])
    if match["accent"]:
        return _character(whole) or whole
    if match["macro"] and (found := _character(match["macro"])):
        return found + match["open"]
    return ESCAPED.get(whole, whole)


def _character(macro: str) -> str:
    return _symbols().get(macro[1:], "") if macro[1:].isalpha() else _accented(macro)


@cache
def _accented(macro: str) -> str:
    """The one character that an accent and its letter make; empty where Unicode has none."""
    found = unicodedata.normalize("NFC", LatexNodes2Text().latex_to_text(macro))
    return found if len(found) == 1 and found.isalpha() else ""


@cache
def _symbols() -> dict[str, str]:
    """Macros without arguments that stand for a letter (Latin, Greek, Cyrillic) or a sign of running text."""
    database = get_default_latex_context_db()
    macros = [m for category in database.categories() for m in database.iter_macro_specs([category])]
    found = {m.macroname: m.simplify_repl for m in macros if isinstance(m.simplify_repl, str)}
    return OURS | {
        name: character
        for name, character in found.items()
        if len(character) == 1 and not character.isascii() and unicodedata.category(character)[0] in "LPSN"
        if name.startswith(("text", "guil", "quote")) or (character.isalpha() and ord(character) < 0x530)
    }
