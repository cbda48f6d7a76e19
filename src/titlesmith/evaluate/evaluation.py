"""Evaluation of a run: perplexity, and metrics of its texts next to those of texts by people."""

from itertools import pairwise

import polars as pl

from titlesmith.corpus import SPLITS, Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate.abstracts import titles
from titlesmith.evaluate.artifacts import add_artifacts
from titlesmith.evaluate.copies import add_copies
from titlesmith.evaluate.distinct import distinct
from titlesmith.evaluate.future_use import examples, future_use, new_words
from titlesmith.evaluate.length import add_lengths
from titlesmith.evaluate.measurement import Measurements, evenly_spread
from titlesmith.evaluate.ngrams import ngrams
from titlesmith.evaluate.novelty import SIZES, ngram_novelty, unseen
from titlesmith.evaluate.perplexity import perplexity
from titlesmith.evaluate.rouge import ROUGE, rouge
from titlesmith.evaluate.self_bleu import self_bleu
from titlesmith.generate import Nearest
from titlesmith.runs import Run, write_json
from titlesmith.train import Engine


def evaluate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> dict:
    """Measures a run and writes ``metrics.json``.

    Parameters
    ----------
    run
        Has texts.jsonl, and gets metrics.json.
    engine
        The fine-tuned model.
    corpus
        What it was trained on.
    settings
        The parameters of notebook 05.

    Returns
    -------
    dict
        The content of metrics.json: ``perplexity`` by split, with ``perplexity_interval`` and
        ``perplexity_documents`` (the number of documents measured); metrics of the generated texts by name, their
        ``intervals``, and under ``human`` the same of texts by people; ``future`` and ``three_abstracts`` for templates
        that have them. A metric that cannot be measured is None, and ``missing`` says why.
    """
    seed, rows = settings["seed"], run.texts
    metrics = _perplexities(engine, corpus, settings)
    # Metrics of the generated texts, and of as many texts by people where there are that many
    texts = [row["text"] for row in rows]
    people = held_out_texts(corpus, len(texts))
    generated, human, nearest = Measurements(), Measurements(), Nearest(corpus)
    add_artifacts(generated, rows)
    add_copies(generated, texts, [row["nearest_similarity"] for row in rows], nearest)
    add_copies(human, people, [match.similarity for match in nearest.find(people)] if people else [], nearest)
    _add_style((generated, texts), (human, people), corpus, seed)
    # What only some templates have
    extra = _add_overlap(generated, human, rows, corpus, run.record("corpus")["settings"]["order"], seed)
    if for_abstracts := titles(run, corpus, settings):
        extra["three_abstracts"] = for_abstracts
    metrics |= {"texts": len(texts), **generated.values, "intervals": generated.intervals}
    metrics |= {"human": {"texts": len(people), **human.values, "intervals": human.intervals}, **extra}
    metrics["missing"] |= generated.missing | {f"human.{name}": why for name, why in human.missing.items()}
    write_json(run / "metrics.json", metrics)
    run.finish("evaluate")
    return metrics


def held_out_texts(corpus: Corpus, maximum: int) -> list[str]:
    """Completions of test papers, at most ``maximum``, evenly spread in the split's order."""
    every = corpus.scan("test").select("completion").with_row_index()
    chosen = evenly_spread(len(corpus.documents("test")), maximum)
    return every.filter(pl.col("index").is_in(chosen.tolist())).collect()["completion"].to_list()


def _perplexities(engine: Engine, corpus: Corpus, settings: dict) -> dict:
    measurements, counts = Measurements(), {}
    for name in SPLITS:
        documents = corpus.documents(name)
        chosen = evenly_spread(len(documents), settings["documents"] if name == "train" else len(documents))
        counts[name] = len(chosen)
        measurements.add(name, perplexity, engine, documents, chosen, settings["seed"])
    return {
        "perplexity": measurements.values,
        "perplexity_interval": {name: measurements.intervals.get(name) for name in SPLITS},
        "perplexity_documents": counts,
        "missing": {f"perplexity.{name}": why for name, why in measurements.missing.items()},
    }


def _add_style(
    first: tuple[Measurements, list[str]], second: tuple[Measurements, list[str]], corpus: Corpus, seed: int
) -> None:
    """Adds ``words_*``, ``novelty_1`` to ``novelty_4``, ``distinct_*`` and ``self_bleu`` of two lists of texts.

    Metrics that depend on the amount of text are measured on equal amounts: self-BLEU on equally many texts, evenly
    spread, and distinct-n on equally many n-grams of them.
    """
    new = unseen(corpus, first[1] + second[1])
    size = min((len(texts) for _, texts in (first, second) if texts), default=0)
    comparable = [[texts[i] for i in evenly_spread(len(texts), size)] for _, texts in (first, second)]
    for (measurements, texts), some in zip((first, second), comparable, strict=True):
        add_lengths(measurements, texts, seed)
        for n in SIZES:
            measurements.add(f"novelty_{n}", ngram_novelty, texts, n, new[n], seed)
        measurements.add("ngram_novelty", ngram_novelty, texts, 3, new[3], seed)
        for n in (1, 2):
            counts = [sum(len(ngrams(text, n)) for text in side) for side in comparable]
            measurements.add(f"distinct_{n}", distinct, some, n, min(filter(None, counts), default=0))
        measurements.add("self_bleu", self_bleu, some, seed)


def _add_overlap(
    generated: Measurements, human: Measurements, rows: list[dict], corpus: Corpus, order: str, seed: int
) -> dict:
    """Adds ROUGE against the real texts, and ``future_use``, of texts for prompts of held-out papers.

    ``human`` gets the ROUGE of the real text of another held-out paper, which is what texts of one field share by
    chance, and how often people use new words. Returns ``future``: the number of new words, and examples.

    Raises
    ------
    RunError
        A text names a paper that is not held out.
    """
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row.get("paper"):
            texts.setdefault(row["paper"], []).append(row["text"])
    if not texts:
        why = "no text completes the prompt of a held-out paper" if corpus.has_prompt else "the template has no prompt"
        for name in (*ROUGE, "future_use"):
            generated.skip(name, why)
            human.skip(name, why)
        return {}
    held_out = pl.concat([corpus.scan(name) for name in ("valid", "test")])
    papers = held_out.filter(pl.col("id").is_in(list(texts))).collect()
    if unknown := set(texts) - set(papers["id"]):
        raise RunError(
            f"texts.jsonl names {sorted(unknown)[0]}, which is not a held-out paper: run 04_generate.ipynb again"
        )
    # ROUGE of the texts, and of each paper's real text against that of the next paper
    real = dict(zip(papers["id"], papers["completion"], strict=True))
    own = rouge([(paper, real[paper], text) for paper, of in texts.items() for text in of], seed)
    ring = [*texts, next(iter(texts))]
    others = rouge([(a, real[a], real[b]) for a, b in pairwise(ring)], seed) if len(texts) > 1 else {}
    for name in ROUGE:
        generated.add(name, own.get, name)
        if others:
            human.add(name, others.get, name)
        else:
            human.skip(name, "it takes two held-out papers")
    # New words, where held-out papers are newer than the training papers
    if order != "date":
        for measurements in (generated, human):
            measurements.skip("future_use", "the split is random, so no text is later than the training texts")
        return {}
    new = new_words(corpus, dict(zip(papers["id"], papers["prompt"], strict=True)))
    generated.add("future_use", future_use, new, texts, seed)
    human.add("future_use", future_use, new, {paper: [text] for paper, text in real.items()}, seed)
    counts = {"prompts": sum(map(bool, new.values())), "words": len(set().union(*new.values()))}
    return {"future": counts | {"examples": examples(new, texts, real)}}
