import json
import math
import shutil

import numpy as np
import polars as pl
import pytest

from conftest import corpus_settings, write_archive
from evaluate.corpora import Uniform
from titlesmith import corpus as corpora
from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.corpus.documents import writing_documents
from titlesmith.errors import RunError
from titlesmith.evaluate import evaluate, report
from titlesmith.harvest import harvest
from titlesmith.runs import Run

SETTINGS = {"seed": 1, "documents": 20, "path": "book/three-abstracts.csv", "reference_model": ""}
ROW = {"prefix": "", "prompt": "", "text": "Neural speech", "tokens": 2, "logprob": -1.0, "finished": True}
ROW |= {"nearest_id": "x", "nearest": "Neural", "nearest_similarity": 0.5, "paper": None}


def made(project, template="title", order="date", lowercase=False) -> tuple[Run, Corpus]:
    """A run up to its corpus: 80 papers whose abstracts hold their titles. A test process builds each once."""
    source = project.parent / f"made-{template}-{order}-{lowercase}"
    if not source.exists():
        titles = [f"Neural {kind} number {i} of {i % 7} sounds" for i in range(20) for kind in ("A", "B", "C", "D")]
        write_archive(project / "papers.tsv", [{"title": title} for title in titles])
        run = Run("r")
        given = {
            "source": "archive",
            "path": "papers.tsv",
            "categories": [],
            "since": "",
            "until": "",
            "max_results": 0,
            "encoding": "utf-8",
        }
        run.begin("harvest", given)
        harvest(run, given)
        settings = corpus_settings(template=template, order=order, lowercase=lowercase, split=[0.8, 0.1, 0.1])
        run.begin("corpus", settings)
        corpora.build(run, settings | {"vocabulary": 400}, None, context=256)
        run.path.rename(source)
    shutil.copytree(source, project / "runs" / "r", dirs_exist_ok=True)
    return Run("r"), Corpus(Run("r"))


def measured(run: Run, corpus: Corpus, rows: list[dict], engine=None, **settings) -> dict:
    run.begin("finetune", {})
    run.finish("finetune")
    run.begin("generate", {"temperature": 1.0})
    run.path.joinpath("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run.finish("generate")
    run.begin("evaluate", SETTINGS | settings)
    metrics = evaluate(run, engine or Uniform(corpus), corpus, SETTINGS | settings)
    assert metrics == run.metrics, "what a reader of metrics.json gets"
    assert not any(isinstance(v, float) and not math.isfinite(v) for v in leaves(metrics))
    for of in (metrics, metrics["human"]):
        assert all(value is not None or of["missing"][name] for name, value in of.items())
    for table in (report.STYLE, report.FAULTS, report.PROMPTED, report.DISTRIBUTION, report.ABSTRACTS):
        known = [name for name in table if metrics[name] is not None or metrics["human"].get(name) is not None]
        rows = report.comparison(metrics, table)
        assert [row["metric"] for row in rows] == [report.NAMES[name] for name in known]
        assert rows or report.why_missing(metrics, table).startswith("Not measured: ")
    report.perplexities(metrics, "scratch")
    assert len(report.published(metrics)) == (0 if metrics["rouge1_stemmed"] is None else 5)
    return metrics


def leaves(value: object) -> list:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def titles(corpus: Corpus, name: str) -> list[str]:
    return corpus.table(name)["completion"].to_list()


def test_metrics_of_a_run(finished):
    metrics, engine, corpus = finished.metrics, engines.load_engine(finished), Corpus(finished)
    for name in ("train", "valid", "test"):
        assert metrics["perplexity"][name] == pytest.approx(math.exp(engine.mean_loss(corpus.documents(name))))
        low, high = metrics["perplexity_interval"][name]
        assert low <= metrics["perplexity"][name] <= high
        assert metrics["perplexity_documents"][name] == len(corpus.documents(name))
    assert metrics["human"]["texts"] == min(len(finished.texts), len(corpus.documents("test")))
    assert metrics["prefix_kept_rate"] == 1
    assert metrics["missing"]["rouge1"] == "the template has no prompt" and metrics["rouge1"] is None


def test_losses_of_documents_are_each_documents_own(finished):
    engine, documents = engines.load_engine(finished), Corpus(finished).documents("train")
    chosen = np.array([7, 0, 3])
    nats, tokens = engine.document_losses(documents, chosen)
    for i, sum_of, count in zip(chosen, nats, tokens, strict=True):
        ids = np.concatenate([[engine.tokenizer.eos_id], documents[i]])
        assert sum_of == pytest.approx(engine.losses(ids[None], np.ones((1, len(ids) - 1)))[0], rel=1e-5)
        assert count == len(ids) - 1
    every, of = engine.document_losses(documents)
    assert every[chosen] == pytest.approx(nats, rel=1e-5)
    assert engine.mean_loss(documents) == pytest.approx(every.sum() / of.sum())


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(project):
    run, corpus = made(project)
    metrics = measured(run, corpus, [ROW])
    for name in ("train", "valid", "test"):
        assert metrics["perplexity"][name] == pytest.approx(len(corpus.tokenizer))
        assert metrics["perplexity_interval"][name] == pytest.approx([len(corpus.tokenizer)] * 2)
    assert metrics["perplexity_documents"] == {"train": 20, "valid": 8, "test": 8}, "train on a sample"


def test_copies_and_people(project):
    run, corpus = made(project)
    known = titles(corpus, "train")[0]
    rows = [ROW | {"text": known.upper(), "nearest_similarity": 1.0}] + [
        ROW | {"text": t} for t in titles(corpus, "test")
    ]
    metrics = measured(run, corpus, rows)
    assert metrics["copy_rate"] == metrics["near_copy_rate"] == 1 / 9
    assert metrics["human"]["copy_rate"] == 0 and metrics["human"]["near_copy_rate"] > 0.5, "people's titles are alike"
    same = measured(run, corpus, rows[1:])
    for name in ("distinct_1", "distinct_2", "self_bleu", "ngram_novelty", "words_mean", "words_95", "novelty_1"):
        assert same[name] == same["human"][name], "the very texts that people wrote"


def test_any_texts_have_figures_or_a_reason(project):
    run, corpus = made(project)

    def of(*texts, **changed):
        metrics = measured(run, corpus, [ROW | {"text": text, "prefix": text[:3]} | changed for text in texts])
        assert metrics["texts"] == len(texts)
        return metrics

    one = of("Neural speech recognition")
    assert one["missing"]["self_bleu"] == "it takes two texts" and one["distinct_1"] == 1
    equal = of(*["All the same title"] * 6)
    assert equal["self_bleu"] == pytest.approx(1) and equal["distinct_1"] == pytest.approx(1 / 6)
    assert of("word " * 2000, "x" * 10_000)["words_95"] > 1000
    spaces = of("   ", " ")
    assert spaces["missing"]["distinct_1"] == "there is nothing to be measured on" and spaces["words_mean"] == 0
    broken = of("caf\ufffd", "\ud800 half", "ok")
    assert broken["artifact_rate"] == pytest.approx(1 / 3) and broken["prefix_kept_rate"] == 1
    never = of("A title that never", finished=False)
    assert never["artifact_rate"] == 1 and never["prefix_kept_rate"] == 1
    none = of()
    assert none["copy_rate"] is None and none["missing"]["copy_rate"] == "there is nothing to be measured on"


def test_an_empty_test_split_leaves_out_people(project):
    run, corpus = made(project)
    with writing_documents(corpus.path / "test.bin", corpus.tokenizer):
        pass
    corpus.table("test").clear().write_parquet(corpus.path / "test.parquet")
    metrics = measured(run, corpus, [ROW, ROW | {"text": "Another one"}])
    assert metrics["perplexity"]["test"] is None
    assert metrics["missing"]["perplexity.test"] == "there is nothing to be measured on"
    assert metrics["distinct_1"] == 1 and metrics["human"]["distinct_1"] is None
    with pytest.raises(RunError, match="rebuild the corpus"):
        Uniform(corpus).mean_loss(corpus.documents("test"))


def test_a_model_that_diverged_has_no_perplexity(project):
    run, corpus = made(project)
    engine = Uniform(corpus)
    engine.losses = lambda ids, learned: np.full(len(ids), np.nan)
    metrics = measured(run, corpus, [ROW], engine)
    assert metrics["perplexity"]["test"] is None and "not finite" in metrics["missing"]["perplexity.test"]


def test_prompts_of_held_out_papers_are_compared_with_the_real_texts(project):
    run, corpus = made(project, "abstract-to-title")
    test = corpus.table("test")
    rows = [ROW | {"paper": row["id"], "text": row["completion"]} for row in test.to_dicts()]
    metrics = measured(run, corpus, rows)
    assert metrics["rouge1"] == metrics["rougeL"] == 1 and metrics["intervals"]["rouge1"] == [1, 1]
    assert 0.3 < metrics["human"]["rouge1"] < 1, "titles of one kind share words"
    assert metrics["missing"]["future_use"] == "there is nothing to be measured on"
    assert metrics["future"] == {"prompts": 0, "words": 0, "examples": []}
    one = measured(run, corpus, rows[:1])
    assert one["rouge1"] == 1 and one["human"]["missing"]["rouge1"] == "there is nothing to be measured on"
    with pytest.raises(RunError, match="nobody"):
        measured(run, corpus, [ROW | {"paper": "nobody"}])


def test_abstracts_use_terms_of_their_titles(project):
    run, corpus = made(project, "title-to-abstract")
    test = corpus.table("test").with_columns(
        prompt=pl.lit("BERT models of speech"), completion=pl.lit("We model speech in $n$ ways.")
    )
    test.write_parquet(corpus.path / "test.parquet")
    rows = [ROW | {"paper": name, "text": text} for name in test["id"] for text in ("BERTs of $n speech", "Nothing")]
    metrics = measured(run, corpus, rows)
    assert metrics["acronyms_used"] == 0.5 and metrics["human"]["acronyms_used"] == 0
    assert metrics["key_terms_used"] == 1 / 3 and metrics["human"]["key_terms_used"] == 2 / 3
    assert metrics["latex_parses"] == 0 and metrics["human"]["latex_parses"] == 1
    run, corpus = made(project, "title-to-abstract", lowercase=True)
    metrics = measured(run, corpus, [ROW | {"paper": corpus.table("test")["id"][0]}])
    assert metrics["acronyms_used"] is None


def test_generated_texts_are_told_from_those_of_people(project):
    run, corpus = made(project)
    same = measured(run, corpus, [ROW | {"text": title} for title in titles(corpus, "valid") * 5])
    assert "20 texts of each kind" in same["missing"]["classifier_accuracy"], "eight people are too few"


def test_new_words_are_counted_for_the_model_and_for_people(project):
    run, corpus = made(project, "abstract-to-title")
    real = pl.Series(["BERT"] * 2 + ["it"] * 6)
    test = corpus.table("test").with_columns(prompt=pl.lit("BERT."), completion=real)
    test.write_parquet(corpus.path / "test.parquet")
    texts = ("with bert", "without", "none", "no")
    rows = [ROW | {"paper": name, "text": text} for name in test["id"] for text in texts]
    metrics = measured(run, corpus, rows)
    assert metrics["future_use"] == 0.25 and metrics["human"]["future_use"] == 0.25
    (example,) = metrics["future"]["examples"]
    assert example == {"word": "bert", "prompts": 8, "generated": 8, "texts": 32, "people": 2}


def test_a_random_split_has_no_future(project):
    run, corpus = made(project, "abstract-to-title", order="random")
    metrics = measured(run, corpus, [ROW | {"paper": corpus.table("test")["id"][0]}])
    assert metrics["rouge1"] is not None and "random" in metrics["missing"]["future_use"]


def test_texts_of_own_prompts_have_no_real_text(project):
    run, corpus = made(project, "abstract-to-title")
    metrics = measured(run, corpus, [ROW])
    assert metrics["missing"]["rouge1"] == "no text completes the prompt of a held-out paper"


def test_a_run_without_a_model_says_so(project):
    run, _ = made(project)
    with pytest.raises(RunError, match=r"03_finetune\.ipynb"):
        engines.load_engine(run)
