"""Novelty: how much of what was generated stands in the training texts."""

from titlesmith.corpus.clean import fold
from titlesmith.evaluate.diversity import ngrams

NEAR = 0.9


def copy_rate(texts: list[str], training: list[str]) -> float:
    """Share of the texts that equal a training text after case and space folding; 0 where there is no text."""
    known = set(map(fold, training))
    return sum(fold(text) in known for text in texts) / max(1, len(texts))


def near_copy_rate(rows: list[dict]) -> float:
    """Share of the lines of texts.jsonl whose nearest training text has a similarity of at least 0.9."""
    return sum(row["nearest_similarity"] >= NEAR for row in rows) / max(1, len(rows))


def ngram_novelty(texts: list[str], training: list[str], n: int = 3) -> float:
    """Share of the texts' n-grams that no training text has; 0 where there is none."""
    known = {gram for text in training for gram in ngrams(text, n)}
    found = [gram for text in texts for gram in ngrams(text, n)]
    return sum(gram not in known for gram in found) / max(1, len(found))
