"""Overlap: what texts for prompts of held-out papers share with the papers' prompts and real texts."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate.held_out import SPLITS
from titlesmith.evaluate.measurement import Measurement, Measurements, ratio
from titlesmith.evaluate.rouge import ROUGE, add_rouge

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


USED = {"future_use": words, "key_terms_used": key_terms, "acronyms_used": acronyms}


def add_overlap(generated: Measurements, human: Measurements, rows: list[dict], corpus: Corpus, seed: int) -> dict:
    """Adds ROUGE against the real texts, and which of their prompts' new words, key terms and acronyms texts use.

    ``human`` gets the ROUGE of another held-out paper's real text, which is chance, and the terms that real texts use.
    Returns ``future``: counts and examples of new words. A text of a paper that is not held out raises a RunError.
    """
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row["paper"]:
            texts.setdefault(row["paper"], []).append(row["text"])
    if not texts:
        why = "no text completes the prompt of a held-out paper" if corpus.has_prompt else "the template has no prompt"
        for measurements in (generated, human):
            for name in (*ROUGE, *USED):
                measurements.skip(name, why)
        return {}
    papers = pl.concat([corpus.scan(name) for name in SPLITS]).filter(pl.col("id").is_in(list(texts))).collect()
    if unknown := set(texts) - set(papers["id"]):
        raise RunError(f"texts.jsonl names {min(unknown)}, which is not a held-out paper: run 04_generate.ipynb again")
    real = dict(zip(papers["id"], papers["completion"], strict=True))
    prompts = dict(zip(papers["id"], papers["prompt"], strict=True))
    # ROUGE of the texts, and of each paper's real text against that of the next paper
    add_rouge(generated, [(paper, real[paper], text) for paper, of in texts.items() for text in of], seed)
    ring = [*texts, next(iter(texts))] if len(texts) > 1 else []
    add_rouge(human, [(paper, real[paper], real[other]) for paper, other in pairwise(ring)], seed)
    # The terms of each prompt: new words, if held-out papers are newer, and terms of titles, in abstracts for them
    terms: dict[str, dict[str, set[str]]] = {}
    reasons = dict.fromkeys(USED, "the template does not make an abstract of a title")
    reasons["future_use"] = "the split is random, so no text is later than the training texts"
    if corpus.info["order"] == "date":
        terms["future_use"] = new_words(corpus, prompts)
    if "title" in corpus.template.prompt_fields and "abstract" in corpus.template.completion_fields:
        titles = {paper: corpus.template.read(prompt)["title"] for paper, prompt in prompts.items()}
        for name in ("key_terms_used", "acronyms_used"):
            terms[name] = {paper: USED[name](title) for paper, title in titles.items()}
    for measurements, of in ((generated, texts), (human, {paper: [text] for paper, text in real.items()})):
        for name, read in USED.items():
            if name in terms:
                measurements.add(name, use_rate, terms[name], of, read, seed)
            else:
                measurements.skip(name, reasons[name])
    if "future_use" not in terms:
        return {}
    new = terms["future_use"]
    counts = {"prompts": sum(map(bool, new.values())), "words": len(set().union(*new.values()))}
    return {"future": counts | {"examples": examples(new, texts, real)}}


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
