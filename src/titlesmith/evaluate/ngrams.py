"""N-grams: runs of words."""


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of ``n`` words of a text, case folded."""
    words = text.casefold().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))
