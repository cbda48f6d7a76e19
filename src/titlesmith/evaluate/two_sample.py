"""Two-sample classifier: whether generated texts can be told from texts by people (Lopez-Paz and Oquab 2017)."""

import numpy as np

from titlesmith.evaluate.measurement import Measurement, MissingError, share

MIN_TEXTS, MAX_TEXTS = 20, 1000  # of each kind
FOLDS = 5

Sample = list[tuple[str, str]]  # texts, each with the id of its paper, or "" if it belongs to none


def comparable(rows: list[dict], has_prompt: bool) -> Sample:
    """Texts without a prefix, which would give them away; one per prompt, because texts for one prompt are alike."""
    free = {row["prompt"] if has_prompt else i: row for i, row in enumerate(rows) if not row["prefix"]}
    return [(row["paper"] or "", row["text"]) for row in free.values()]


def classifier_accuracy(first: Sample, second: Sample, seed: int) -> Measurement:
    """Share of texts whose sample a classifier names rightly: 0.5 if the samples are alike, 1 if nothing is confused.

    A cross-validated logistic regression on TF-IDF of words, pairs of words and two to four characters. Texts for one
    paper, and equal texts, are in one fold. Samples are cut to equal size.
    """
    size = min(len(first), len(second), MAX_TEXTS)
    if size < MIN_TEXTS:
        raise MissingError(f"it takes {MIN_TEXTS} texts of each kind, without prefixes and for different prompts")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline, make_union

    both, samples = [*first[:size], *second[:size]], np.repeat([0, 1], size)
    _, groups = np.unique([paper or f" {text}" for paper, text in both], return_inverse=True)
    features = make_union(
        TfidfVectorizer(lowercase=False, token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(lowercase=False, analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
    )
    model = make_pipeline(features, LogisticRegression(C=10, max_iter=1000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    try:
        named = cross_val_predict(model, [text for _, text in both], samples, groups=groups, cv=folds)
    except ValueError as error:  # no text has a word, or equal texts fill a fold
        raise MissingError(f"the texts are too few or too alike: {error}") from None
    return share((named == samples).tolist())
