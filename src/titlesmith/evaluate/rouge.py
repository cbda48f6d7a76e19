"""ROUGE: how much of the real text is in the text generated for its prompt."""

import numpy as np

from titlesmith.evaluate.measurement import Measurement, ratio

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(pairs: list[tuple[str, str, str]], seed: int) -> dict[str, Measurement]:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004) by rouge-score, without stemming, by name.

    rouge-score knows only the letters a to z and digits: texts in other alphabets have a ROUGE of 0.

    Parameters
    ----------
    pairs
        For each generated text: the id of the paper that it was generated for, the paper's real text, and the text.
    seed
        Of the bootstrap over papers, whose texts stay together.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE)
    papers, index = np.unique([paper for paper, _, _ in pairs], return_inverse=True)
    scores = [scorer.score(real, text) for _, real, text in pairs]
    texts = np.bincount(index, minlength=len(papers))
    return {
        name: ratio(np.bincount(index, [score[name].fmeasure for score in scores], len(papers)), texts, seed)
        for name in ROUGE
    }
