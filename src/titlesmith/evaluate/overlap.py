"""Overlap: how much of the real text stands in what was generated for its prompt."""

import numpy as np

from titlesmith.evaluate.figures import Figure, ratio

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(pairs: list[tuple[str, str, str]], seed: int) -> dict[str, Figure]:
    """Mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), by rouge-score, without stemming.

    Parameters
    ----------
    pairs
        For each generated text: the paper that it was written for, the paper's real text, and the text.
    seed
        Of the bootstrap over papers, whose texts stay together.

    Returns
    -------
    dict
        By name. rouge-score knows the letters a to z and digits alone: texts in other alphabets have an overlap of 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE)
    papers, place = np.unique([paper for paper, _, _ in pairs], return_inverse=True)
    scores = [scorer.score(real, text) for _, real, text in pairs]
    texts = np.bincount(place, minlength=len(papers))
    return {
        name: ratio(np.bincount(place, [score[name].fmeasure for score in scores], len(papers)), texts, seed)
        for name in ROUGE
    }
