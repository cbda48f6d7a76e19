r"""LaTeX in running text: macros of accents and letters become characters; mathematics stays unchanged.

arXiv stores titles and abstracts as authors typed them: ``Fr\'echet``, ``Schr{\"o}dinger``, ``Wroc{\l}aw``. pylatexenc
knows the meaning of macros. Dashes, quotation marks, ties (``--``, ``''``, ``~``) and markup (``\emph{...}``) stay.
"""

import re
import unicodedata
from functools import cache

from pylatexenc.latex2text import LatexNodes2Text, get_default_latex_context_db

known_macros = cache(get_default_latex_context_db)
# Macros that pylatexenc treats as mathematics or replaces by several characters
OURS = {"deg": "°", "S": "§", "P": "¶", "copyright": "©", "pounds": "£", "ldots": "…", "dots": "…"}
MATH = r"\$\$.*?\$\$|\$(?:\\.|[^$\\])*\$|\\\(.*?\\\)|\\\[.*?\\\]"
MACRO = r"\\[A-Za-z]+"
MARK = r"\\(?:[`'^\"~=.]|[uvHcdbkr](?![A-Za-z]))\s*"
LETTER = rf"(?:[A-Za-z]|\{{\s*(?:[A-Za-z]|{MACRO}\s*)\}}|\\(?:[ij]|ae|AE|o|O|aa|AA)(?![A-Za-z])\s*)"
ACCENT = rf"{MARK}(?:{LETTER}|\{{\s*{MARK}{LETTER}\s*\}})"
END = r"(?:\{\}|\s+|(?![A-Za-z]))"  # as in LaTeX, the space after a macro's name belongs to the name
TOKEN = re.compile(
    rf"(?P<math>{MATH})|\{{\s*(?P<group>{ACCENT}|{MACRO})\s*\}}|(?P<accent>{ACCENT})"
    rf"|(?P<macro>{MACRO}){END}(?P<open>\{{?)|(?P<other>\\.)",
    re.DOTALL,
)
ESCAPED = {rf"\{c}": c for c in "%&#_ "}


def characters(text: str) -> str:
    r"""Text with accents, letters, Greek letters and text symbols as characters, and without escapes.

    ``\%``, ``\&``, ``\#``, ``\_`` and the control space lose their backslash; ``\$`` keeps it, so that an amount of
    money does not open a formula. Between dollar signs, ``\(`` and ``\)``, ``\[`` and ``\]`` nothing changes. Macros
    that are not a letter or sign of running text (``\emph``, ``\sim``, ``\~f``) stay.
    """
    while "\\" in text and (new := TOKEN.sub(_replace, text)) != text:
        text = new  # repeat, because a replacement may complete another macro
    return text


def _replace(match: re.Match) -> str:
    token = match[0]
    if match["group"]:
        return _character(match["group"]) or "{" + TOKEN.sub(_replace, token[1:])
    if match["accent"]:
        return _character(token) or token
    if match["macro"] and (character := _character(match["macro"])):
        return character + match["open"]
    return ESCAPED.get(token, token)


@cache
def _character(macro: str) -> str:
    """The character of an accent with its letter, or of a macro for a letter or sign of running text; "" if none."""
    name = macro[1:]
    if not name.isalpha():
        text = unicodedata.normalize("NFC", LatexNodes2Text().latex_to_text(macro))
        return text if len(text) == 1 and text.isalpha() else ""
    text = OURS.get(name) or getattr(known_macros().get_macro_spec(name), "simplify_repl", None)
    if not isinstance(text, str) or len(text) != 1 or text.isascii():
        return ""
    is_letter = text.isalpha() and ord(text) < 0x530  # Latin, Greek, Cyrillic
    is_sign = name.startswith(("text", "guil", "quote")) and unicodedata.category(text)[0] in "LPSN"
    return text if name in OURS or is_letter or is_sign else ""
