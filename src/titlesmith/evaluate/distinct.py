"""Distinct-n: how many of the texts' n-grams are no repeats."""

from titlesmith.evaluate.measurement import Measurement, MissingError


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of ``n`` words of a text, case folded."""
    words = text.casefold().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: list[str], n: int, maximum: int | None = None) -> Measurement:
    """Share of distinct n-grams among the first ``maximum`` (Li et al. 2016); comparable for equally many only."""
    grams = [gram for text in texts for gram in ngrams(text, n)][:maximum]
    if not grams:
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    return Measurement(len(set(grams)) / len(grams))
