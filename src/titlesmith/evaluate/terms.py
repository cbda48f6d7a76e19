"""Terms: how many of a prompt's terms the texts for it use; key terms and acronyms of titles."""

import re
from collections.abc import Callable

import numpy as np

from titlesmith.evaluate.measurement import Measurement, ratio

WORD = re.compile(r"[^\W_][\w-]*\w")
MIN_LETTERS = 4  # of a key term


def key_terms(text: str) -> set[str]:
    """Stems (Porter 1980) of a text's words of at least `MIN_LETTERS` letters that are not stop words."""
    from nltk.stem.porter import PorterStemmer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    stemmer = PorterStemmer()
    words = {word for word in WORD.findall(text.casefold()) if len(word) >= MIN_LETTERS and not word.isdigit()}
    return set(map(stemmer.stem, words - ENGLISH_STOP_WORDS))


def acronyms(text: str) -> set[str]:
    """Words with at least two capitals, case folded, without the s of a plural; none in a text all in capitals."""
    words = WORD.findall(text) if text.upper() != text else ()
    return {word.removesuffix("s").casefold() for word in words if sum(map(str.isupper, word)) >= 2}


def use_rate(
    terms: dict[str, set[str]], texts: dict[str, list[str]], read: Callable[[str], set[str]], seed: int
) -> Measurement:
    """The share of pairs of a paper's term and a text for it in which ``read(text)`` has the term."""
    pairs = np.array([len(terms[paper]) * len(of) for paper, of in texts.items()])
    used = np.array([sum(len(terms[paper] & read(text)) for text in of) for paper, of in texts.items()])
    return ratio(used, pairs, seed)
