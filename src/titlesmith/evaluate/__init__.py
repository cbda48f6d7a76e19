"""Evaluation: how well the model predicts, how new its texts are, and how varied, beside texts by people."""

import math

from titlesmith.corpus import SPLITS, Corpus
from titlesmith.engines.base import Engine
from titlesmith.evaluate.diversity import distinct
from titlesmith.evaluate.novelty import copy_rate, near_copy_rate, ngram_novelty
from titlesmith.run import Run, write_json
from titlesmith.texts import is_clean


def evaluate(run: Run, engine: Engine, corpus: Corpus) -> dict:
    """Measures a run and writes ``metrics.json``.

    Returns
    -------
    dict
        ``perplexity.{train,valid,test}``: exp of the mean loss a token, each document on its own;
        ``copy_rate``, ``near_copy_rate``, ``artifact_rate``, ``prefix_kept_rate``: shares of the generated texts;
        ``distinct_1``, ``distinct_2``, ``ngram_novelty`` of the generated texts, and below ``human`` the same of as
        many test texts by people, or of all where there are fewer.
    """
    rows = run.texts
    texts = [row["text"] for row in rows]
    training = corpus.table("train")["completion"].to_list()
    people = corpus.table("test")["completion"].to_list()[: len(texts)]
    metrics = {
        "perplexity": {name: perplexity(engine.loss(corpus.documents(name))) for name in SPLITS},
        "texts": len(texts),
        "copy_rate": copy_rate(texts, training),
        "near_copy_rate": near_copy_rate(rows),
        "artifact_rate": sum(not (row["finished"] and is_clean(row["text"], row["prefix"])) for row in rows)
        / len(rows),
        "prefix_kept_rate": sum(row["text"].startswith(row["prefix"]) for row in rows) / len(rows),
        **style(texts, training),
        "human": {"texts": len(people), **style(people, training)},
    }
    write_json(run / "metrics.json", metrics)
    run.finish("evaluate")
    return metrics


def perplexity(loss: float) -> float:
    """exp of a loss in nats; a loss that has no finite one, as after a training that diverged, counts as 690."""
    return math.exp(loss if loss < 690 else 690)


def style(texts: list[str], training: list[str]) -> dict[str, float]:
    """The figures that are measured on generated texts and on texts by people alike."""
    return {
        "distinct_1": distinct(texts, 1),
        "distinct_2": distinct(texts, 2),
        "ngram_novelty": ngram_novelty(texts, training),
    }
