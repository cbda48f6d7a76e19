"""Overlap: what texts for prompts of held-out papers share with the papers' prompts and real texts."""

from collections.abc import Callable
from itertools import pairwise

import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate.future_use import examples, new_words, words
from titlesmith.evaluate.held_out import SPLITS
from titlesmith.evaluate.measurement import Measurements
from titlesmith.evaluate.rouge import ROUGE, rouge
from titlesmith.evaluate.terms import acronyms, key_terms, use_rate

TERMS = {"key_terms_used": key_terms, "acronyms_used": acronyms}
USED = ("future_use", *TERMS)


def add_overlap(
    both: tuple[Measurements, Measurements], rows: list[dict], corpus: Corpus, order: str, seed: int
) -> dict:
    """Adds ROUGE against the real texts, ``future_use`` and, of abstracts for titles, `TERMS`.

    The second of ``both``, for people, gets the ROUGE of the real text of another held-out paper, which is what texts
    of one field share by chance, and the terms that real texts use. Returns ``future``: the number of new words, and
    examples. A text that names a paper that is not held out raises a RunError.
    """
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row.get("paper"):
            texts.setdefault(row["paper"], []).append(row["text"])
    if not texts:
        why = "no text completes the prompt of a held-out paper" if corpus.has_prompt else "the template has no prompt"
        _skip(both, (*ROUGE, *USED), why)
        return {}
    held_out = pl.concat([corpus.scan(name) for name in SPLITS])
    papers = held_out.filter(pl.col("id").is_in(list(texts))).collect()
    if unknown := set(texts) - set(papers["id"]):
        raise RunError(
            f"texts.jsonl names {sorted(unknown)[0]}, which is not a held-out paper: run 04_generate.ipynb again"
        )
    real = dict(zip(papers["id"], papers["completion"], strict=True))
    prompts = dict(zip(papers["id"], papers["prompt"], strict=True))
    # ROUGE of the texts, and of each paper's real text against that of the next paper
    own = rouge([(paper, real[paper], text) for paper, of in texts.items() for text in of], seed)
    ring = [*texts, next(iter(texts))]
    others = rouge([(a, real[a], real[b]) for a, b in pairwise(ring)], seed) if len(texts) > 1 else {}
    for name in ROUGE:
        both[0].add(name, own.get, name)
        if others:
            both[1].add(name, others.get, name)
        else:
            both[1].skip(name, "it takes two held-out papers")

    def add_use(name: str, terms: dict, read: Callable[[str], set[str]], why: str) -> None:
        """Adds the share of terms that are used, or why there are no terms."""
        if not any(terms.values()):
            return _skip(both, (name,), why)
        for measurements, of in zip(both, (texts, {paper: [text] for paper, text in real.items()}), strict=True):
            measurements.add(name, use_rate, terms, of, read, seed)

    # Key terms and acronyms of titles, in abstracts for them
    makes_abstracts = "title" in corpus.template.prompt_fields and "abstract" in corpus.template.completion_fields
    titles = (
        {paper: corpus.template.read(prompt)["title"] for paper, prompt in prompts.items()} if makes_abstracts else {}
    )
    for name, read in TERMS.items():
        why = "no title has one" if makes_abstracts else "the template does not make an abstract of a title"
        add_use(name, {paper: read(title) for paper, title in titles.items()}, read, why)
    # New words, where held-out papers are newer than the training papers
    if order != "date":
        _skip(both, ("future_use",), "the split is random, so no text is later than the training texts")
        return {}
    new = new_words(corpus, prompts)
    add_use("future_use", new, words, "no prompt has a word that is newer than the training texts")
    counts = {"prompts": sum(map(bool, new.values())), "words": len(set().union(*new.values()))}
    return {"future": counts | {"examples": examples(new, texts, real)}}


def _skip(both: tuple[Measurements, Measurements], names: tuple[str, ...], why: str) -> None:
    for measurements in both:
        for name in names:
            measurements.skip(name, why)
