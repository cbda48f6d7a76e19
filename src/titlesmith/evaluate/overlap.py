"""Overlap: what texts for prompts of held-out papers share with the papers' prompts and real texts."""

from itertools import pairwise

import polars as pl

from titlesmith.corpus import Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate.held_out import SPLITS
from titlesmith.evaluate.measurement import Measurements
from titlesmith.evaluate.rouge import ROUGE, add_rouge
from titlesmith.evaluate.terms import acronyms, examples, key_terms, new_words, use_rate, words

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
