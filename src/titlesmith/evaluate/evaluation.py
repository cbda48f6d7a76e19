"""Evaluation of a run: perplexity, and metrics of its texts next to those of texts by people."""

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import measured_documents, tokens_read
from titlesmith.evaluate import reference
from titlesmith.evaluate.abstracts import titles
from titlesmith.evaluate.faults import add_artifacts, add_copies
from titlesmith.evaluate.held_out import held_out_texts, two_samples
from titlesmith.evaluate.losses import measure_losses
from titlesmith.evaluate.measurement import Measurements
from titlesmith.evaluate.overlap import add_overlap
from titlesmith.evaluate.snapshot import snapshot
from titlesmith.evaluate.style import add_style
from titlesmith.evaluate.two_sample import MAX_TEXTS, classifier_accuracy, comparable
from titlesmith.generate import Nearest
from titlesmith.runs import Run, write_json
from titlesmith.train import Engine


def evaluate(run: Run, engine: Engine, corpus: Corpus, settings: dict) -> dict:
    """Measures a run, with the parameters of notebook 05, and writes ``metrics.json``.

    Perplexities and bits per byte are by split. ``human`` has the metrics of texts by people, ``before`` and ``after``
    those of `snapshot`. A metric of None could not be measured: ``missing`` says why.
    """
    training = run.record("finetune")
    reference.check(settings, training["settings"].get("model", ""))
    seed, rows = settings["seed"], run.texts
    # Metrics of the generated texts, and of as many texts by people where there are that many
    texts = [row["text"] for row in rows]
    people = held_out_texts(corpus, len(texts))
    generated, human, nearest = Measurements(), Measurements(), Nearest(corpus)
    add_artifacts(generated, rows, corpus)
    add_copies(generated, texts, [row["nearest_similarity"] for row in rows], nearest)
    add_copies(human, people, [row["nearest_similarity"] for row in nearest.find(people)] if people else [], nearest)
    add_style([(generated, texts), (human, people)], corpus, seed)
    _add_distribution((generated, human), rows, corpus, settings)
    # What only some templates have
    extra = add_overlap(generated, human, rows, corpus, seed)
    if for_abstracts := titles(run, corpus, settings):
        extra["three_abstracts"] = for_abstracts
    metrics = {"texts": len(texts), **generated.to_dict(), "human": {"texts": len(people)} | human.to_dict(), **extra}
    # Losses of the splits, and of the model before and after training
    trained = 0 if settings["documents"] else tokens_read(training["settings"], training["steps"])
    for split, chosen in measured_documents(corpus, settings["documents"], trained).items():
        metrics.setdefault("perplexity_documents", {})[split] = len(chosen)
        measured = measure_losses(engine, corpus, split, chosen, seed)
        for name, value in measured.values.items():
            metrics.setdefault(name, {})[split] = value
            metrics.setdefault(f"{name}_interval", {})[split] = measured.intervals.get(name)
        metrics["missing"] |= {f"{name}.{split}": why for name, why in measured.missing.items()}
    if before := training.get("before"):
        after = snapshot(engine, corpus, before["documents"], training["settings"]["seed"])
        metrics |= {"before": before, "after": after}
    write_json(run / "metrics.json", metrics)
    run.finish("evaluate")
    return metrics


def _add_distribution(both: tuple[Measurements, ...], rows: list[dict], corpus: Corpus, settings: dict) -> None:
    """Adds ``reference_bits_per_byte``, and ``classifier_accuracy`` against one of two samples of held-out texts."""
    texts, seed = comparable(rows, corpus.has_prompt), settings["seed"]
    first, second = two_samples(corpus, min(len(texts), MAX_TEXTS), seed)
    model = reference.open_reference(settings["reference_model"], [text for _, text in second])
    for measurements, sample, read in zip(both, (texts, second), (texts, first + second), strict=True):
        measurements.add("classifier_accuracy", classifier_accuracy, sample, first, seed)
        own = [text for _, text in read[:MAX_TEXTS]]
        measurements.add("reference_bits_per_byte", reference.reference_bits_per_byte, model, own, seed)
