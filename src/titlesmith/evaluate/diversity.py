"""Diversity: how much texts repeat one another."""


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of ``n`` words of a text, case folded."""
    words = text.casefold().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: list[str], n: int) -> float:
    """Share of distinct n-grams among all n-grams of the texts (Li et al. 2016); 0 where there is none."""
    found = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(found)) / max(1, len(found))
