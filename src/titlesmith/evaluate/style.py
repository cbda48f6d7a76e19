"""Style: lengths, variety and novelty of texts, and whether their LaTeX parses."""

import re

import numpy as np
from pylatexenc.latexwalker import LatexWalker, LatexWalkerError

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import evenly_spread
from titlesmith.evaluate.measurement import NOTHING, Measurement, Measurements, MissingError, mean, ratio, share

SIZES = range(1, 9)  # words of the n-grams whose novelty is measured
MAX_BLEU_TEXTS = 200  # that are compared with one another
PERCENT = re.compile(r"(?<!\\)%")  # in running text, where LaTeX would read a comment


def add_style(sides: list[tuple[Measurements, list[str]]], corpus: Corpus, seed: int) -> None:
    """Adds ``words_*``, ``latex_parses``, ``novelty_*``, and on equal amounts of text ``distinct_*``, ``self_bleu``."""
    new = unseen(corpus, [text for _, texts in sides for text in texts])
    size = min((len(texts) for _, texts in sides if texts), default=0)
    equal = [[texts[i] for i in evenly_spread(len(texts), size)] for _, texts in sides]
    for (measurements, texts), some in zip(sides, equal, strict=True):
        words = [len(text.split()) for text in texts]
        measurements.add("words_mean", mean, words, seed)
        for percent in (5, 50, 95):
            measurements.add(f"words_{percent}", percentile, words, percent)
        measurements.add("latex_parses", latex_parses, texts)
        for n in SIZES:
            measurements.add(f"novelty_{n}", novelty, texts, n, new[n], seed)
        measurements.add("ngram_novelty", novelty, texts, 3, new[3], seed)
        for n in (1, 2):
            counts = [sum(len(ngrams(text, n)) for text in side) for side in equal]
            measurements.add(f"distinct_{n}", distinct, some, n, min(filter(None, counts), default=0))
        measurements.add("self_bleu", self_bleu, some, seed)


def percentile(values: list[int], percent: int) -> Measurement:
    """A percentile of one value per text."""
    if not values:
        raise MissingError(NOTHING)
    return Measurement(float(np.percentile(values, percent)))


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of ``n`` words of a text, case folded."""
    words = text.casefold().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: list[str], n: int, maximum: int | None = None) -> Measurement:
    """Share of distinct n-grams among the first ``maximum`` (Li et al. 2016); comparable for equally many only."""
    grams = [gram for text in texts for gram in ngrams(text, n)][:maximum]
    if not grams:
        raise MissingError(NOTHING)
    return Measurement(len(set(grams)) / len(grams))


def unseen(corpus: Corpus, texts: list[str]) -> dict[int, set[tuple[str, ...]]]:
    """The n-grams of texts that no training text has, for each n of `SIZES`; train is read in batches."""
    grams = {n: {gram for text in texts for gram in ngrams(text, n)} for n in SIZES}
    known: dict[int, set[tuple[str, ...]]] = {n: set() for n in SIZES}
    for batch in corpus.scan("train").select("completion").collect_batches():
        for text in batch.to_series():
            for n in SIZES:
                shared = grams[n].intersection(ngrams(text, n))
                if not shared:  # nor is any longer n-gram shared
                    break
                known[n] |= shared
    return {n: grams[n] - known[n] for n in SIZES}


def novelty(texts: list[str], n: int, new: set[tuple[str, ...]], seed: int) -> Measurement:
    """Share of the texts' n-grams that are ``new``, in no training text."""
    grams = [ngrams(text, n) for text in texts]
    fresh = np.array([sum(gram in new for gram in of) for of in grams])
    return ratio(fresh, np.array(list(map(len, grams))), seed)


def self_bleu(texts: list[str], seed: int) -> Measurement:
    """Mean BLEU of each text with all others as its references (Zhu et al. 2018): 0 to 1, and 1 for equal texts.

    sacrebleu's BLEU of sentences of up to four words, with the effective order for shorter texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise MissingError("it takes two texts")
    texts, bleu = [texts[i] for i in evenly_spread(len(texts), MAX_BLEU_TEXTS)], BLEU(effective_order=True)
    others = (texts[:i] + texts[i + 1 :] for i in range(len(texts)))
    scores = (bleu.sentence_score(text, rest).score / 100 for text, rest in zip(texts, others, strict=True))
    return mean([min(score, 1.0) for score in scores], seed)


def latex_parses(texts: list[str]) -> Measurement:
    """The share that parses of the texts with a dollar sign or a backslash."""
    return share([parses(text) for text in texts if "$" in text or "\\" in text])


def parses(text: str) -> bool:
    """Whether a text's braces, dollar signs, environments and arguments are complete, as pylatexenc reads them."""
    try:
        LatexWalker(PERCENT.sub(r"\\%", text), tolerant_parsing=False).get_latex_nodes()
    except (LatexWalkerError, RecursionError):
        return False
    return True
