"""Cleaning: normalized text for documents, and folded text to compare them."""

import re
import unicodedata
from collections.abc import Iterable

from titlesmith.corpus.latex import characters

REMOVED = ("Cf", "Cs", "Co", "Cn")  # of Unicode's categories: format, surrogate, private, unassigned
JOINERS = "\u200c\u200d"  # change the letters around them, as in Persian, Hindi and emoji
VISIBLE = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")  # format characters that are signs
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # of ASCII


def clean(text: str) -> str:
    """One line of normalized text.

    Unicode form C, LaTeX accents as characters (`titlesmith.corpus.latex`), one space for any white space. Control
    characters and U+200B count as white space. Format characters, such as those that change the direction of writing,
    are removed, but the joiners U+200C and U+200D stay inside words. Cleaning again changes nothing.
    """
    if text.isascii() and "\\" not in text:  # as most titles and abstracts are
        return " ".join(CONTROL.sub(" ", text).split())
    kinds = {c: unicodedata.category(c) for c in set(text) - set(JOINERS) - VISIBLE}
    spaces = {ord(c): " " for c, kind in kinds.items() if kind == "Cc" or c == "\u200b"}
    text = text.translate({ord(c): None for c, kind in kinds.items() if kind in REMOVED} | spaces)
    # Normalize before LaTeX, because form C makes ASCII of some characters, and after it, because accents may combine
    text = unicodedata.normalize("NFC", characters(unicodedata.normalize("NFC", text)))
    return " ".join(word for part in text.split() if (word := part.lstrip(JOINERS)))


def clean_paragraphs(text: str) -> str:
    """`clean` of each paragraph of a text."""
    return join_paragraphs(map(clean, re.split(r"[\r\n]+", text)))


def join_paragraphs(paragraphs: Iterable[str]) -> str:
    """Paragraphs with one newline between them, without the empty ones."""
    return "\n".join(filter(None, paragraphs))


def fold(text: str) -> str:
    """A text without its case and white space, to compare texts."""
    return " ".join(text.casefold().split())
