"""Faults: copies of training texts, artifacts, lost prefixes."""

from titlesmith.corpus import DocumentFormat
from titlesmith.evaluate.measurement import Measurements, share
from titlesmith.generate import Nearest, is_clean

NEAR = 0.9  # similarity of a near copy, at least


def add_copies(measurements: Measurements, texts: list[str], similarities: list[float], nearest: Nearest) -> None:
    """Adds ``copy_rate``, of texts that equal a training text but for case and white space, and ``near_copy_rate``."""
    measurements.add("copy_rate", share, [nearest.is_copy(text) for text in texts])
    measurements.add("near_copy_rate", share, [similarity >= NEAR for similarity in similarities])


def add_artifacts(measurements: Measurements, rows: list[dict], corpus: DocumentFormat) -> None:
    """Adds ``artifact_rate``, of texts that are unfinished or not clean, and ``prefix_kept_rate`` of generated rows."""
    allowed = corpus.markup, corpus.breaks
    clean = [row["finished"] and is_clean(row["text"], row["prefix"], *allowed) for row in rows]
    measurements.add("artifact_rate", share, [not ok for ok in clean])
    measurements.add("prefix_kept_rate", share, [row["text"].startswith(row["prefix"]) for row in rows])
