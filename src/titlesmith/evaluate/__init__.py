"""Evaluation: how well the model predicts, how new its texts are, and how varied, beside texts by people."""

from itertools import pairwise

import numpy as np
import polars as pl

from titlesmith.corpus import SPLITS, Corpus
from titlesmith.errors import RunError
from titlesmith.evaluate import abstracts, future
from titlesmith.evaluate.diversity import distinct, ngrams, self_bleu
from titlesmith.evaluate.figures import Figure, Figures, MissingError, mean, share, spread
from titlesmith.evaluate.novelty import NEAR, SIZES, ngram_novelty, unseen
from titlesmith.evaluate.overlap import ROUGE, rouge
from titlesmith.evaluate.perplexity import perplexity
from titlesmith.generate.generator import is_clean
from titlesmith.generate.nearest import Nearest
from titlesmith.runs import Run, write_json
from titlesmith.train.loop import Engine


def evaluate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> dict:
    """Measures a run and writes ``metrics.json``.

    Parameters
    ----------
    run
        Where texts.jsonl lies, and metrics.json goes.
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
        ``perplexity_documents`` (on how many it was measured); figures of the generated texts by name (`texts_alone`,
        `style`, `overlap`), their ``intervals``, and below ``human`` the same of texts by people; ``future`` and
        ``three_abstracts`` for templates that have them. A figure that cannot be measured is None, and ``missing``
        says why.
    """
    seed = settings["seed"]
    titles = abstracts.titles(run, corpus, settings)
    metrics = _perplexities(engine, corpus, settings)
    rows = run.texts
    texts = [row["text"] for row in rows]
    people = held_out_texts(corpus, len(texts))
    generated, human = Figures(), Figures()
    texts_alone(generated, rows)
    nearest = Nearest(corpus)
    copies(human, people, [match.similarity for match in nearest.find(people)] if people else [], nearest)
    copies(generated, texts, [row["nearest_similarity"] for row in rows], nearest)
    style((generated, texts), (human, people), corpus, seed)
    extra = overlap(generated, human, rows, corpus, run.record("corpus")["settings"]["order"], seed)
    if titles:
        extra["three_abstracts"] = titles
    metrics |= {"texts": len(texts), **generated.values, "intervals": generated.intervals}
    metrics |= {"human": {"texts": len(people), **human.values, "intervals": human.intervals}, **extra}
    metrics["missing"] |= generated.missing | {f"human.{name}": why for name, why in human.missing.items()}
    write_json(run / "metrics.json", metrics)
    run.finish("evaluate")
    return metrics


def _perplexities(engine: Engine, corpus: Corpus, settings: dict) -> dict:
    figures, measured = Figures(), {}
    for name in SPLITS:
        documents = corpus.documents(name)
        chosen = spread(len(documents), settings["documents"] if name == "train" else len(documents))
        measured[name] = len(chosen)
        figures.add(name, perplexity, engine, documents, chosen, settings["seed"])
    return {
        "perplexity": figures.values,
        "perplexity_interval": {name: figures.intervals.get(name) for name in SPLITS},
        "perplexity_documents": measured,
        "missing": {f"perplexity.{name}": why for name, why in figures.missing.items()},
    }


def held_out_texts(corpus: Corpus, most: int) -> list[str]:
    """Completions of test papers, at most so many, evenly spread in the split's order."""
    every = corpus.scan("test").select("completion").with_row_index()
    chosen = spread(len(corpus.documents("test")), most)
    return every.filter(pl.col("index").is_in(chosen.tolist())).collect()["completion"].to_list()


def texts_alone(figures: Figures, rows: list[dict]) -> None:
    """Figures that texts by people do not have: ``artifact_rate`` and ``prefix_kept_rate``."""
    figures.add(
        "artifact_rate", share, [not (row["finished"] and is_clean(row["text"], row["prefix"])) for row in rows]
    )
    figures.add("prefix_kept_rate", share, [row["text"].startswith(row["prefix"]) for row in rows])


def copies(figures: Figures, texts: list[str], similarities: list[float], nearest: Nearest) -> None:
    """``copy_rate``: equal to a training text, case and space aside; ``near_copy_rate``: at least `NEAR` like one."""
    figures.add("copy_rate", share, [nearest.is_copy(text) for text in texts])
    figures.add("near_copy_rate", share, [similarity >= NEAR for similarity in similarities])


def style(first: tuple[Figures, list[str]], second: tuple[Figures, list[str]], corpus: Corpus, seed: int) -> None:
    """Figures of two lists of texts: ``words_*``, ``novelty_1`` to ``novelty_4``, ``distinct_*``, ``self_bleu``.

    What depends on how much text there is is measured on as much of both: self-BLEU on as many texts, evenly spread,
    distinct-n on as many n-grams of them.
    """
    new = unseen(corpus, first[1] + second[1])
    compared = min(len(texts) for _, texts in (first, second) if texts) if first[1] or second[1] else 0
    few = [[texts[i] for i in spread(len(texts), compared)] for _, texts in (first, second)]
    for (figures, texts), same in zip((first, second), few, strict=True):
        lengths = [len(text.split()) for text in texts]
        figures.add("words_mean", mean, lengths, seed)
        for percent in (5, 50, 95):
            figures.add(f"words_{percent}", _quantile, lengths, percent)
        for n in SIZES:
            figures.add(f"novelty_{n}", ngram_novelty, texts, n, new[n], seed)
        figures.add("ngram_novelty", ngram_novelty, texts, 3, new[3], seed)
        for n in (1, 2):
            sizes = [sum(len(ngrams(text, n)) for text in side) for side in few]
            figures.add(f"distinct_{n}", distinct, same, n, min(filter(None, sizes), default=0))
        figures.add("self_bleu", self_bleu, same, seed)


def _quantile(values: list[int], percent: int) -> Figure:
    if not values:
        raise MissingError("there is no text")
    return Figure(float(np.percentile(values, percent)))


def overlap(generated: Figures, human: Figures, rows: list[dict], corpus: Corpus, order: str, seed: int) -> dict:
    """ROUGE against the real texts, and ``future_use``, of texts that complete the prompt of a held-out paper.

    ``human`` gets the ROUGE of the real text of another held-out paper, which is what texts of one field share anyway,
    and how often people take new words up. Returns ``future``: how many new words there are, and examples.

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
        why = "no text completes the prompt of a held-out paper"
        why = why if corpus.has_prompt else "the template has no prompt"
        for figures in (generated, human):
            for name in (*ROUGE, "future_use"):
                figures.add(name, _missing, why)
        return {}
    held_out = pl.concat([corpus.scan(name) for name in ("valid", "test")])
    papers = held_out.filter(pl.col("id").is_in(list(texts))).collect()
    if unknown := set(texts) - set(papers["id"]):
        raise RunError(
            f"texts.jsonl names {sorted(unknown)[0]}, which is no held-out paper: run 04_generate.ipynb again"
        )
    real = dict(zip(papers["id"], papers["completion"], strict=True))
    found = rouge([(paper, real[paper], text) for paper, of in texts.items() for text in of], seed)
    ring = [*texts, next(iter(texts))]
    other = rouge([(a, real[a], real[b]) for a, b in pairwise(ring)], seed) if len(texts) > 1 else {}
    for name in ROUGE:
        generated.add(name, found.get, name)
        human.add(name, other.get if other else _missing, name if other else "it takes two held-out papers")
    if order != "date":
        for figures in (generated, human):
            figures.add("future_use", _missing, "the split is random, so no text is later than the training texts")
        return {}
    new = future.newer(corpus, dict(zip(papers["id"], papers["prompt"], strict=True)))
    generated.add("future_use", future.use, new, texts, seed)
    human.add("future_use", future.use, new, {paper: [text] for paper, text in real.items()}, seed)
    return {
        "future": {
            "prompts": sum(map(bool, new.values())),
            "words": len(set().union(*new.values())),
            "examples": future.examples(new, texts, real),
        }
    }


def _missing(why: str) -> Figure:
    raise MissingError(why)
