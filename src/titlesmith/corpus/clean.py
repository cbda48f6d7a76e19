"""Cleaning: normalized text for documents, and folded text to compare them."""

import re
import unicodedata
from collections.abc import Callable, Iterable

import polars as pl

from titlesmith.corpus.latex import characters

REMOVED = ("Cf", "Cs", "Co", "Cn")  # of Unicode's categories: format, surrogate, private, unassigned
JOINERS = "\u200c\u200d"  # change the letters around them, as in Persian, Hindi and emoji
VISIBLE = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u08e2")  # format characters that are signs
SPACE = r"[\x00-\x1f\x7f][\x00-\x20\x7f]*| [\x00-\x20\x7f]+"  # ASCII white space except a single space


def clean(text: str) -> str:
    """One line of normalized text.

    Unicode form C, LaTeX accents as characters (`titlesmith.corpus.latex`), one space for any white space. Control
    characters and U+200B count as white space. Format characters, such as those that change the direction of writing,
    are removed, but the joiners U+200C and U+200D stay inside words. Cleaning again changes nothing.
    """
    kinds = {c: unicodedata.category(c) for c in set(text) - set(JOINERS) - VISIBLE}
    spaces = {ord(c): " " for c, kind in kinds.items() if kind == "Cc" or c == "\u200b"}
    text = text.translate({ord(c): None for c, kind in kinds.items() if kind in REMOVED} | spaces)
    # Normalize before LaTeX, because form C makes ASCII of some characters, and after it, because accents may combine
    text = unicodedata.normalize("NFC", characters(unicodedata.normalize("NFC", text)))
    return " ".join(word for part in text.split() if (word := part.lstrip(JOINERS)))


def clean_all(texts: pl.Series) -> pl.Series:
    """`clean` of each text, "" for null; fast for plain ASCII, as most abstracts of arXiv are."""
    texts = texts.cast(pl.String).fill_null("")
    plain = texts.str.replace_all("\n", " ", literal=True).str.replace_all(SPACE, " ").str.strip_chars(" ")
    return _by_row(texts, plain, clean)


def clean_paragraphs(texts: pl.Series) -> pl.Series:
    """`clean` of each paragraph of each text; one newline is between paragraphs, and none is empty."""
    return texts.map_elements(lambda text: join_paragraphs(map(clean, re.split(r"[\r\n]+", text))), pl.String)


def join_paragraphs(paragraphs: Iterable[str]) -> str:
    """Paragraphs with one newline between them, without the empty ones."""
    return "\n".join(filter(None, paragraphs))


def fold(text: str) -> str:
    """A text without its case and white space, to compare texts."""
    return " ".join(text.casefold().split())


def fold_all(texts: pl.Series) -> pl.Series:
    """`fold` of clean texts."""
    return _by_row(texts, texts.str.to_lowercase(), str.casefold)


def _by_row(texts: pl.Series, plain: pl.Series, function: Callable[[str], str]) -> pl.Series:
    """``plain``, except ``function`` of each text that is not plain ASCII or has a backslash."""
    hard = (texts.str.len_bytes() != texts.str.len_chars()) | texts.str.contains("\\", literal=True)
    rows = hard.arg_true()
    return plain.scatter(rows, [function(text) for text in texts.gather(rows)]) if len(rows) else plain
