"""Artifacts: unfinished texts and stray delimiters; and whether texts begin with their prefix."""

from titlesmith.evaluate.measurement import Measurements, share
from titlesmith.generate import is_clean


def add_artifacts(measurements: Measurements, rows: list[dict]) -> None:
    """Adds ``artifact_rate`` and ``prefix_kept_rate`` of the rows of texts.jsonl."""
    clean = [row["finished"] and is_clean(row["text"], row["prefix"]) for row in rows]
    measurements.add("artifact_rate", share, [not ok for ok in clean])
    measurements.add("prefix_kept_rate", share, [row["text"].startswith(row["prefix"]) for row in rows])
