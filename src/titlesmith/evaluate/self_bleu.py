"""Self-BLEU: how similar the texts are to one another."""

from titlesmith.corpus.budget import evenly_spread
from titlesmith.evaluate.measurement import Measurement, MissingError, mean

MAX_TEXTS = 200  # that are compared with one another


def self_bleu(texts: list[str], seed: int) -> Measurement:
    """Mean BLEU of each text with all others as its references (Zhu et al. 2018): 0 to 1, and 1 for equal texts.

    sacrebleu's BLEU of sentences of up to four words, with the effective order for shorter texts; at most `MAX_TEXTS`.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise MissingError("it takes two texts")
    texts, bleu = [texts[i] for i in evenly_spread(len(texts), MAX_TEXTS)], BLEU(effective_order=True)
    others = (texts[:i] + texts[i + 1 :] for i in range(len(texts)))
    scores = (bleu.sentence_score(text, rest).score / 100 for text, rest in zip(texts, others, strict=True))
    return mean([min(score, 1.0) for score in scores], seed)
