"""Evaluation of a run: perplexity, and metrics of its texts next to those of texts by people."""

from titlesmith.corpus import Corpus
from titlesmith.corpus.budget import evenly_spread, measured_documents, tokens_read
from titlesmith.evaluate import reference
from titlesmith.evaluate.abstracts import titles
from titlesmith.evaluate.distinct import distinct, ngrams
from titlesmith.evaluate.faults import add_artifacts, add_copies
from titlesmith.evaluate.held_out import held_out_texts, two_samples
from titlesmith.evaluate.latex import latex_parses
from titlesmith.evaluate.length import add_lengths
from titlesmith.evaluate.measurement import Measurements
from titlesmith.evaluate.novelty import SIZES, ngram_novelty, unseen
from titlesmith.evaluate.overlap import add_overlap
from titlesmith.evaluate.self_bleu import self_bleu
from titlesmith.evaluate.snapshot import measure_losses, snapshot
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
    trained = 0 if settings["documents"] else tokens_read(training["settings"], training["steps"])
    metrics = _predictions(engine, corpus, settings, trained)
    if before := training.get("before"):
        after = snapshot(engine, corpus, before["documents"], training["settings"]["seed"])
        metrics |= {"before": before, "after": after}
    # Metrics of the generated texts, and of as many texts by people where there are that many
    texts = [row["text"] for row in rows]
    people = held_out_texts(corpus, len(texts))
    generated, human, nearest = Measurements(), Measurements(), Nearest(corpus)
    add_artifacts(generated, rows, corpus)
    add_copies(generated, texts, [row["nearest_similarity"] for row in rows], nearest)
    add_copies(human, people, [row["nearest_similarity"] for row in nearest.find(people)] if people else [], nearest)
    _add_style([(generated, texts), (human, people)], corpus, seed)
    _add_distribution((generated, human), rows, corpus, settings)
    # What only some templates have
    extra = add_overlap(generated, human, rows, corpus, run.record("corpus")["settings"]["order"], seed)
    if for_abstracts := titles(run, corpus, settings):
        extra["three_abstracts"] = for_abstracts
    metrics |= {"texts": len(texts), **generated.values, "intervals": generated.intervals}
    metrics |= {"human": {"texts": len(people), **human.values, "intervals": human.intervals}, **extra}
    metrics["missing"] |= generated.missing | {f"human.{name}": why for name, why in human.missing.items()}
    write_json(run / "metrics.json", metrics)
    run.finish("evaluate")
    return metrics


def _predictions(engine: Engine, corpus: Corpus, settings: dict, trained: float) -> dict:
    """Perplexity and bits per byte by split, with intervals, counts of documents, and what is missing."""
    metrics: dict = {"missing": {}, "perplexity_documents": {}}
    for name, chosen in measured_documents(corpus, settings["documents"], trained).items():
        measured = measure_losses(engine, corpus, name, chosen, settings["seed"])
        metrics["perplexity_documents"][name] = len(chosen)
        for key, value in measured.values.items():
            metrics.setdefault(key, {})[name] = value
            metrics.setdefault(f"{key}_interval", {})[name] = measured.intervals.get(key)
        metrics["missing"] |= {f"{key}.{name}": why for key, why in measured.missing.items()}
    return metrics


def _add_distribution(both: tuple[Measurements, ...], rows: list[dict], corpus: Corpus, settings: dict) -> None:
    """Adds ``reference_bits_per_byte``, and ``classifier_accuracy`` against one of two samples of held-out texts."""
    texts, seed = comparable(rows, corpus.has_prompt), settings["seed"]
    first, second = two_samples(corpus, min(len(texts), MAX_TEXTS), seed)
    model = reference.open_reference(settings["reference_model"], [text for _, text in second])
    for measurements, sample in zip(both, (texts, second), strict=True):
        measurements.add("classifier_accuracy", classifier_accuracy, sample, first, seed)
        own = [text for _, text in sample[:MAX_TEXTS]]
        measurements.add("reference_bits_per_byte", reference.reference_bits_per_byte, model, own, seed)


def _add_style(pairs: list[tuple[Measurements, list[str]]], corpus: Corpus, seed: int) -> None:
    """Adds ``words_*``, ``latex_parses``, ``novelty_*``, and on equal amounts of text ``distinct_*``, ``self_bleu``."""
    new = unseen(corpus, [text for _, texts in pairs for text in texts])
    size = min((len(texts) for _, texts in pairs if texts), default=0)
    comparable = [[texts[i] for i in evenly_spread(len(texts), size)] for _, texts in pairs]
    for (measurements, texts), some in zip(pairs, comparable, strict=True):
        add_lengths(measurements, texts, seed)
        measurements.add("latex_parses", latex_parses, texts)
        for n in SIZES:
            measurements.add(f"novelty_{n}", ngram_novelty, texts, n, new[n], seed)
        measurements.add("ngram_novelty", ngram_novelty, texts, 3, new[3], seed)
        for n in (1, 2):
            counts = [sum(len(ngrams(text, n)) for text in side) for side in comparable]
            measurements.add(f"distinct_{n}", distinct, some, n, min(filter(None, counts), default=0))
        measurements.add("self_bleu", self_bleu, some, seed)
