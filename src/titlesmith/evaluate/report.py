"""Reports: metrics.json as rows of tables."""

from collections.abc import Callable

from titlesmith.corpus import SPLITS
from titlesmith.evaluate.rouge import KINDS, PUBLISHED, ROUGE, STEMMED

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
    "key_terms_used": "key terms of the title that are used",
    "acronyms_used": "acronyms of the title that are used",
    "latex_parses": "texts with LaTeX that parse",
    "classifier_accuracy": "accuracy of a two-sample classifier",
    "reference_bits_per_byte": "bits per byte under the reference model",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "artifact_rate": "artifacts",
    "prefix_kept_rate": "texts that begin with their prefix",
}
NAMES |= {f"{name}_stemmed": f"{NAMES[name]}, stemmed" for name in KINDS}
FAULTS = ("copy_rate", "near_copy_rate", "artifact_rate", "prefix_kept_rate")
STYLE = tuple(n for n in NAMES if n.startswith(("words", "distinct", "self", "ngram")))
DISTRIBUTION = ("classifier_accuracy", "reference_bits_per_byte")
PROMPTED = (*ROUGE, "future_use")
ABSTRACTS = ("key_terms_used", "acronyms_used", "latex_parses")
# Measurements that runs and published results are compared by: their names, and whether the lowest or highest is best
MEASUREMENTS: dict[str, tuple[str, Callable | None]] = {
    **{f"perplexity.{split}": (f"perplexity, {split}", min) for split in SPLITS},
    **{f"loss.{split}": (f"loss in nats per token, {split}", min) for split in SPLITS},
    **{f"bits_per_byte.{split}": (f"bits per byte, {split}", min) for split in SPLITS},
    "hours": ("hours of training", None),
    **{name: (NAMES[name], min) for name in ("copy_rate", "near_copy_rate", "artifact_rate", "classifier_accuracy")},
    **{name: (NAMES[name], max) for name in ("prefix_kept_rate", *KINDS, "key_terms_used")},
    **{name: (NAMES[name], None) for name in ("distinct_1", "distinct_2", "self_bleu", "ngram_novelty")},
    "reference_bits_per_byte": (NAMES["reference_bits_per_byte"], None),
}
BEFORE_AFTER = ("perplexity", "bits_per_byte", *STEMMED)


def perplexities(metrics: dict, model: str) -> list[dict]:
    """One row: the model, for each split the perplexity and its interval, and the bits per byte of test."""

    def cell(name: str, split: str) -> str:
        interval, why = metrics[f"{name}_interval"][split], metrics["missing"].get(f"{name}.{split}")
        return _cell({name: metrics[name][split], "intervals": {name: interval}, "missing": {name: why}}, name)

    row = {"model": model} | {split: cell("perplexity", split) for split in SPLITS}
    return [row | {"test, bits per byte": cell("bits_per_byte", "test")}]


def before_after(metrics: dict) -> list[dict]:
    """One row per measure of the validation documents, before training and after; empty for a run without them."""
    sides = {side: metrics[side] for side in ("before", "after") if side in metrics}
    return _rows("validation documents", BEFORE_AFTER, sides)


def texts_before_after(metrics: dict) -> list[dict]:
    """Texts of the model before training and after, side by side, and the real text where they have a prompt."""
    before, after = (metrics.get(side, {"texts": [], "real": []}) for side in ("before", "after"))
    columns = {"before training": before["texts"], "after training": after["texts"]}
    columns |= {"real text": after["real"]} if after["real"] else {}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]


def published(metrics: dict) -> list[dict]:
    """Stemmed ROUGE of the generated texts, of other papers' real texts, and of published models; empty without it."""
    if metrics.get(STEMMED[0]) is None:
        return []
    own = {"this run": metrics, "real text of another paper": metrics["human"]}
    others = {model: dict(zip(STEMMED, values, strict=True)) for model, values in PUBLISHED.items()}
    return [
        {"model": model, "test set": "this run's" if model in own else "other test set"}
        | {NAMES[name]: _cell(of, name) for name in STEMMED}
        for model, of in (own | others).items()
    ]


def comparison(metrics: dict, names: tuple[str, ...], people: str = "by people") -> list[dict]:
    """One row per metric that was measured: its value for the generated texts, and for texts by ``people``."""
    return _rows("metric", names, {"generated": metrics, people: metrics["human"]})


def _rows(label: str, names: tuple[str, ...], sides: dict[str, dict]) -> list[dict]:
    return [
        {label: NAMES[name]} | {side: _cell(of, name) for side, of in sides.items()}
        for name in names
        if any(of.get(name) is not None for of in sides.values())
    ]


def why_missing(metrics: dict, names: tuple[str, ...]) -> str:
    """A sentence that says why none of these metrics was measured."""
    reasons = dict.fromkeys(filter(None, (metrics["missing"].get(name) for name in names)))
    return f"Not measured: {'; '.join(reasons)}." if reasons else "None."


def _cell(of: dict, name: str) -> str:
    """A value with its interval, or why it is unknown; ``of`` may have ``intervals`` and ``missing``."""
    value, interval = of.get(name), of.get("intervals", {}).get(name)
    if value is None:
        why = of.get("missing", {}).get(name)
        return f"unknown: {why}" if why else ""
    digits = 1 if name.startswith("words") else 2 if name == "perplexity" else 3
    ends = " to ".join(f"{end:,.{digits}f}" for end in interval or ())
    return f"{value:,.{digits}f}" + (f" ({ends})" if ends else "")
