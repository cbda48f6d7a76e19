"""Terms: whether texts use words of their prompt, new words, a title's key terms, or its acronyms."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np

from titlesmith.corpus import Corpus
from titlesmith.evaluate.measurement import Measurement, ratio

NEW_WORD = re.compile(r"[^\W\d_][\w'-]*\w")  # begins with a letter, so numbers are excluded; at least two characters
WORD = re.compile(r"[^\W_][\w-]*\w")
MIN_LETTERS = 4  # of a key term
EXAMPLES = 20


def words(text: str) -> set[str]:
    """The distinct words of a text, case folded, without punctuation."""
    return set(NEW_WORD.findall(text.casefold()))


def key_terms(text: str) -> set[str]:
    """Stems (Porter 1980) of a text's words of at least `MIN_LETTERS` letters that are not stop words."""
    from nltk.stem.porter import PorterStemmer
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    stemmer = PorterStemmer()
    long = {word for word in WORD.findall(text.casefold()) if len(word) >= MIN_LETTERS and not word.isdigit()}
    return set(map(stemmer.stem, long - ENGLISH_STOP_WORDS))


def acronyms(text: str) -> set[str]:
    """Words with at least two capitals, case folded, without the s of a plural; none in a text all in capitals."""
    found = WORD.findall(text) if text.upper() != text else ()
    return {word.removesuffix("s").casefold() for word in found if sum(map(str.isupper, word)) >= 2}


def use_rate(
    terms: dict[str, set[str]], texts: dict[str, list[str]], read: Callable[[str], set[str]], seed: int
) -> Measurement:
    """The share of pairs of a paper's term and a text for it in which ``read(text)`` has the term."""
    pairs = np.array([len(terms[paper]) * len(of) for paper, of in texts.items()])
    used = np.array([sum(len(terms[paper] & read(text)) for text in of) for paper, of in texts.items()])
    return ratio(used, pairs, seed)


def new_words(corpus: Corpus, prompts: dict[str, str]) -> dict[str, set[str]]:
    """By paper, the words of its prompt that are in no training document, neither in its prompt nor its completion."""
    own = {paper: words(prompt) for paper, prompt in prompts.items()}
    unknown = set().union(*own.values())
    for batch in corpus.scan("train").select("prompt", "completion").collect_batches():
        for column in batch:
            for text in column:
                unknown -= words(text)
    return {paper: of & unknown for paper, of in own.items()}


def examples(new: dict[str, set[str]], texts: dict[str, list[str]], real: dict[str, str]) -> list[dict]:
    """New words, most frequent first, with counts of prompts, and of generated and real texts that have them."""
    rows: dict[str, Counter] = defaultdict(Counter)
    for paper, of in new.items():
        generated, people = [words(text) for text in texts[paper]], words(real[paper])
        for word in of:
            uses = {"generated": sum(word in text for text in generated), "people": int(word in people)}
            rows[word].update({"prompts": 1, "texts": len(generated)} | uses)
    ranked = sorted(rows.items(), key=lambda item: (-item[1]["prompts"], -item[1]["people"], item[0]))
    return [{"word": word} | row for word, row in ranked[:EXAMPLES]]
