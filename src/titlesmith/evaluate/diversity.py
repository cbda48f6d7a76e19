"""Diversity: how much texts repeat one another."""

from titlesmith.evaluate.figures import Figure, MissingError, mean, spread

MOST = 200  # texts that self-BLEU compares with one another


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of ``n`` words of a text, case folded."""
    words = text.casefold().split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct(texts: list[str], n: int, most: int | None = None) -> Figure:
    """Share of distinct n-grams among the texts' n-grams, or among the first ``most`` of them (Li et al. 2016).

    The more n-grams, the smaller the share: only figures of as many n-grams compare. It has no bootstrap interval,
    since a text that is drawn twice repeats itself.

    Raises
    ------
    MissingError
        No text has ``n`` words.
    """
    found = [gram for text in texts for gram in ngrams(text, n)][:most]
    if not found:
        raise MissingError(f"no text has {n} word{'s' * (n > 1)}")
    return Figure(len(set(found)) / len(found))


def self_bleu(texts: list[str], seed: int) -> Figure:
    """Mean BLEU of each text with all the others as its references (Zhu et al. 2018), from 0 to 1, 1 for all alike.

    BLEU up to 4 words, as sacrebleu computes it for a sentence, of an effective order where a text is shorter. Of more
    than `MOST` texts so many are taken, evenly spread.

    Raises
    ------
    MissingError
        There are fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise MissingError("it takes two texts")
    texts, bleu = [texts[i] for i in spread(len(texts), MOST)], BLEU(effective_order=True)
    others = (texts[:i] + texts[i + 1 :] for i in range(len(texts)))
    scores = (bleu.sentence_score(text, rest).score / 100 for text, rest in zip(texts, others, strict=True))
    return mean([min(score, 1.0) for score in scores], seed)
