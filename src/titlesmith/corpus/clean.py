"""Cleaning: what a text looks like before it is formatted, and what two texts share that are the same but for case."""

import unicodedata
from collections.abc import Callable

import polars as pl

from titlesmith.corpus.latex import characters

REMOVED = ("Cf", "Cs", "Co", "Cn")  # of Unicode's categories: format, surrogate, private, unassigned
SPACE = r"[\x00-\x1f\x7f][\x00-\x20\x7f]*| [\x00-\x20\x7f]+"  # any but a single space, in ASCII


def clean(text: str) -> str:
    """One line of normalized text.

    Unicode form C, no control or format characters, LaTeX accents as characters (`titlesmith.corpus.latex`), white
    space folded to one space. Cleaning again changes nothing.
    """
    kinds = {ord(c): unicodedata.category(c) for c in set(text)}
    text = text.translate({c: " " if k == "Cc" else None for c, k in kinds.items() if k == "Cc" or k in REMOVED})
    # On both sides: form C makes ASCII of some characters, and what LaTeX means may combine with what follows it
    return " ".join(unicodedata.normalize("NFC", characters(unicodedata.normalize("NFC", text))).split())


def clean_all(texts: pl.Series) -> pl.Series:
    """`clean` of each text, null as empty; quickly where a text is plain ASCII, as most abstracts of arXiv are."""
    texts = texts.cast(pl.String).fill_null("")
    plain = texts.str.replace_all("\n", " ", literal=True).str.replace_all(SPACE, " ").str.strip_chars(" ")
    return _where(texts, plain, clean)


def fold(text: str) -> str:
    """A text without the differences of case and white space that do not make another text."""
    return " ".join(text.casefold().split())


def fold_all(texts: pl.Series) -> pl.Series:
    """Clean texts without regard to case: equal results are the same text."""
    return _where(texts, texts.str.to_lowercase(), str.casefold)


def _where(texts: pl.Series, plain: pl.Series, function: Callable[[str], str]) -> pl.Series:
    """``plain``, but for texts that are not plain ASCII or have a backslash, for which ``function`` says it."""
    hard = (texts.str.len_bytes() != texts.str.len_chars()) | texts.str.contains("\\", literal=True)
    rows = hard.arg_true()
    return plain.scatter(rows, [function(text) for text in texts.gather(rows)]) if len(rows) else plain
