"""ROUGE: how much of the real text is in the text generated for its prompt."""

import numpy as np

from titlesmith.evaluate.measurement import Measurements, ratio

KINDS = ("rouge1", "rouge2", "rougeL")
STEMMED = tuple(f"{kind}_stemmed" for kind in KINDS)
ROUGE = (*KINDS, *STEMMED)
PUBLISHED = {  # of titles for abstracts: ROUGE-1, -2 and -L, by model and test set
    "T5-base, cs.AI": (0.472, 0.268, 0.418),
    "PEGASUS, arXiv": (0.448, 0.244, 0.402),
    "distilBART, computer science": (0.515, 0.334, 0.458),
}


def add_rouge(measurements: Measurements, pairs: list[tuple[str, str, str]], seed: int) -> None:
    """Adds the mean F of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), plain and with Porter's stemmer, by rouge-score.

    It reads only a to z and digits. ``pairs``: a paper's id, its real text, a generated text; bootstrap over papers.
    """
    from rouge_score.rouge_scorer import RougeScorer

    papers, index = np.unique([paper for paper, _, _ in pairs], return_inverse=True)
    texts = np.bincount(index, minlength=len(papers))
    for names, stem in ((KINDS, False), (STEMMED, True)):
        scorer = RougeScorer(KINDS, use_stemmer=stem)
        scores = [scorer.score(real, text) for _, real, text in pairs]
        for kind, name in zip(KINDS, names, strict=True):
            sums = np.bincount(index, [score[kind].fmeasure for score in scores], len(papers))
            measurements.add(name, ratio, sums, texts, seed)
