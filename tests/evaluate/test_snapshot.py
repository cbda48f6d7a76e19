from titlesmith import train as engines
from titlesmith.corpus import Corpus
from titlesmith.evaluate import report, snapshot


def test_a_run_is_measured_before_and_after_on_the_same_documents(finished):
    before, metrics = finished.record("finetune")["before"], finished.metrics
    assert metrics["before"] == before and len(before["texts"]) == 10 and before["real"] == []
    after = metrics["after"]
    assert after["documents"] == before["documents"] == len(Corpus(finished).documents("valid"))
    assert after["perplexity"] == metrics["perplexity"]["valid"] < before["perplexity"]
    assert after["bits_per_byte"] < before["bits_per_byte"]
    assert len(after["texts"]) == 10 and after["texts"] != before["texts"]
    rows = report.before_after(metrics)
    assert [row["validation documents"] for row in rows] == ["perplexity", "bits per byte"]
    assert rows[0]["before"].startswith(f"{before['perplexity']:,.2f} (")
    assert report.texts_before_after(metrics)[0] == {
        "before training": before["texts"][0], "after training": after["texts"][0]
    }  # fmt: skip
    assert report.before_after({}) == report.texts_before_after({}) == []


def test_texts_complete_the_prompts_of_validation_documents(project):
    from evaluate.test_evaluate import made

    run, corpus = made(project, "abstract-to-title")
    engine = engines.start_engine(run, "scratch", corpus, 1)
    found = snapshot(engine, corpus, 3, 1)
    assert found["documents"] == 3 and len(found["texts"]) == len(found["real"]) == 8
    assert 0 <= found["rouge1_stemmed"] < 0.3 and "rougeL" in found["intervals"]
    metrics = {"before": found, "after": found}
    assert "real text" in report.texts_before_after(metrics)[0] and len(report.before_after(metrics)) == 5
