"""Cleaning: what a text looks like before it is formatted, and which papers are left out."""

import unicodedata

import polars as pl

EXAMPLES = 3


def clean(text: str) -> str:
    """One line of normalized text: Unicode form C, no control or format characters, white space folded to one space."""
    kinds = ((c, unicodedata.category(c)) for c in text)
    kept = "".join(" " if kind == "Cc" else c for c, kind in kinds if kind not in ("Cf", "Cs", "Co", "Cn"))
    return " ".join(unicodedata.normalize("NFC", kept).split())


def select(papers: pl.DataFrame, fields: list[str], dated: bool) -> tuple[pl.DataFrame, dict[str, dict]]:
    """Cleans the fields that a template uses and drops papers that cannot be used.

    Parameters
    ----------
    papers
        As harvested, oldest first; of two that are equal the older is kept.
    fields
        The columns of text that must not be empty; the last one must not repeat either (after case folding), so
        that no text of one split is in another.
    dated
        Whether to drop papers without a date, which a split by date cannot place.

    Returns
    -------
    tuple
        The papers that are left, and for each reason to drop ``{"papers": int, "examples": [titles]}``.
    """
    papers = papers.with_columns(pl.col(fields).fill_null("").map_elements(clean, pl.String))
    reasons = {
        "no date": pl.col("published").is_null() & dated,
        "no " + " or ".join(fields): pl.any_horizontal(pl.col(f) == "" for f in fields),
        "same id": ~pl.col("id").is_first_distinct(),
        f"same {fields[-1]}": ~pl.col(fields[-1]).str.to_lowercase().is_first_distinct(),
    }
    dropped = {}
    for reason, expression in reasons.items():
        mask = papers.select(expression).to_series()
        examples = papers.filter(mask)[fields[-1]].head(EXAMPLES).to_list()
        dropped[reason] = {"papers": int(mask.sum()), "examples": examples}
        papers = papers.filter(~mask)
    return papers, dropped
