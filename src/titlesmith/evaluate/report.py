"""Reports: metrics.json as rows of tables."""

from titlesmith.corpus import SPLITS

NAMES = {
    "words_mean": "words per text, mean",
    "words_5": "words per text, 5th percentile",
    "words_50": "words per text, median",
    "words_95": "words per text, 95th percentile",
    "copy_rate": "copies of training texts",
    "near_copy_rate": "copies and near copies",
    "ngram_novelty": "new runs of three words",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs of words",
    "self_bleu": "self-BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "future_use": "new words of the prompt that are used",
    "artifact_rate": "artifacts",
    "prefix_kept_rate": "texts that begin with their prefix",
}
FAULTS = ("copy_rate", "near_copy_rate", "artifact_rate", "prefix_kept_rate")
STYLE = tuple(n for n in NAMES if n.startswith(("words", "distinct", "self", "ngram")))
PROMPTED = ("rouge1", "rouge2", "rougeL", "future_use")


def perplexities(metrics: dict, model: str) -> list[dict]:
    """One row: the model, and for each split the perplexity and its interval."""
    row = {"model": model}
    for name in SPLITS:
        interval = metrics["perplexity_interval"][name]
        row[name] = shown(metrics["perplexity"][name], interval, metrics["missing"].get(f"perplexity.{name}"), 2)
    return [row]


def comparison(metrics: dict, names: tuple[str, ...]) -> list[dict]:
    """One row per metric: its value for the generated texts, and for texts by people."""
    rows = []
    for name in names:
        row = {"metric": NAMES[name]}
        for column, of, prefix in (("generated", metrics, ""), ("by people", metrics["human"], "human.")):
            why = metrics["missing"].get(f"{prefix}{name}", "")
            row[column] = shown(of.get(name), of["intervals"].get(name), why, 1 if name.startswith("words") else 3)
        rows.append(row)
    return rows


def shown(value: float | None, interval: list[float] | None, why: str | None, digits: int) -> str:
    """A value with its interval, or why there is none."""
    if value is None:
        return f"unknown: {why}" if why else ""
    ends = " to ".join(f"{end:,.{digits}f}" for end in interval or ())
    return f"{value:,.{digits}f}" + (f" ({ends})" if ends else "")
