import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import SMALL, make_project, write_archive
from titlesmith import engines
from titlesmith.corpus import Corpus
from titlesmith.engines.gpt2 import GPT2Engine
from titlesmith.errors import RequestError, RunError
from titlesmith.experiment import Experiment
from titlesmith.export import MADE_OF, export, fresh, place
from titlesmith.pipeline import chain
from titlesmith.run import Run

ASKED = {"count": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 24, "seed": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is trained until it knows something; each test finds it without an export."""
    pytest.importorskip("ctranslate2")
    folder = make_project(tmp_path_factory.mktemp("exports"))
    words = ["speech", "music", "sound", "voice", "noise", "tempo", "pitch", "echo"]
    titles = [f"Neural {a} {b} number {i}" for i in range(3) for a in words for b in words]
    write_archive(folder / "papers.tsv", [{"title": title} for title in titles])
    asked = ("harvest.path=papers.tsv", *SMALL, "finetune.steps=60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TITLESMITH_ROOT", str(folder))
        chain(Experiment.read(folder / "experiments" / "archive-titles.yml", asked), "r", until="finetune")
        yield Run("r")


@pytest.fixture
def exported(trained):
    export(trained, "ctranslate2")
    return engines.load(trained)


def test_the_export_draws_what_the_model_would_and_says_how_likely_it_is(trained, exported):
    prompts = [exported.tokenizer.prompt(prefix, False) for prefix in ("", "Neural music")]
    found = exported.generate(prompts, ASKED)
    assert exported._real is None, "TensorFlow is not asked"
    assert found == exported.generate(prompts, ASKED) != exported.generate(prompts, ASKED | {"seed": 4})
    full, end = GPT2Engine.load(trained / "model", resume=False), exported.tokenizer.end
    assert any(d.finished for draws in found for d in draws)
    assert not any(d.ids[: len(prompts[1]) - 1] == prompts[1][1:] for d in found[1]), "the prompt is no part of a text"
    early = exported.generate(prompts, ASKED | {"min_tokens": 12, "max_tokens": 24, "top_k": 20, "temperature": 0.7})
    assert all(len(d.ids) >= 12 for draws in early for d in draws)
    for prompt, draws in zip(prompts * 2, found + early, strict=True):
        assert len(draws) == ASKED["count"]
        for draw in draws:
            ids = [*prompt, *draw.ids, *[end] * draw.finished]
            learned = np.arange(1, len(ids))[None] >= len(prompt)
            nats = full.losses(np.array([ids]), learned.astype(float))[0]
            assert end not in draw.ids and (draw.finished or len(draw.ids) == ASKED["max_tokens"])
            assert draw.logprob == pytest.approx(-nats / (len(ids) - len(prompt)), abs=0.2)
            (own,) = exported.scores([ids])
            assert draw.logprob == pytest.approx(own[len(prompt) - 1 :].mean(), abs=0.05), "of the export itself"
    off = np.abs(exported.next(prompts) - full.next(prompts))
    assert off.mean() < 0.3 and (off * np.exp(full.next(prompts))).max() < 0.1, "the likely ids most of all"


def test_the_export_draws_more_texts_than_fit_side_by_side(exported, monkeypatch):
    prompts = [exported.tokenizer.prompt(prefix, False) for prefix in ("", "Neural", "Neural music", "")]
    monkeypatch.setattr("titlesmith.engines.ctranslate2.ROWS", 3)
    found = exported.generate(prompts, ASKED)
    assert [len(draws) for draws in found] == [ASKED["count"]] * 4
    assert len({tuple(d.ids) for draws in found for d in draws}) > 3 * ASKED["count"], "drawn anew each time"
    assert all(d.ids == draws[0].ids for draws in exported.generate(prompts, ASKED | {"top_k": 1}) for d in draws)


def test_perplexity_of_the_export_is_within_a_hundredth_of_the_models(trained, exported):
    documents = Corpus(trained).documents("test")
    nats = np.concatenate(exported.scores([[exported.tokenizer.end, *d.tolist()] for d in documents]))
    full = exported.loss(documents)
    assert full < 4.5, "it has learned something"
    assert np.exp(-nats.mean() - full) == pytest.approx(1, abs=0.01)


def test_what_ctranslate2_does_otherwise_comes_from_the_model(trained, exported):
    full = GPT2Engine.load(trained / "model", resume=False)
    prompt = [exported.tokenizer.prompt("Neural", False)]
    for asked in ({"beams": 2, "count": 2}, {"no_repeat_ngram": 2}, {"repetition_penalty": 1.2}, {"top_p": 0.9}):
        assert exported.generate(prompt, ASKED | asked) == full.generate(prompt, ASKED | asked)
    with pytest.raises(RequestError, match="exceed the model's context"):
        exported.generate([[1] * 250], ASKED)


def test_an_export_of_an_older_model_is_not_used(trained, exported, capsys):
    made = place(trained, "ctranslate2") / MADE_OF
    written = json.loads(made.read_text())
    assert written["model"] and fresh(trained, "ctranslate2")
    made.write_text(json.dumps(written | {"model": {"model/checkpoint": "0"}}))
    assert isinstance(engines.load(trained), GPT2Engine)
    assert "is of an older model and is not used; titlesmith export r --to ctranslate2" in capsys.readouterr().err


def test_the_command_line_exports(trained, tmp_path):
    def call(*asked: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "titlesmith", "export", *asked], capture_output=True, text=True)

    done = call("r", "--to", "ctranslate2", "--out", str(tmp_path / "there"))
    assert done.returncode == 0 and (tmp_path / "there" / "model.bin").is_file(), done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    with pytest.raises(RequestError, match="is no export"):
        export(trained, "ctranslate2", tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["mine.txt"]
    with pytest.raises(RequestError, match="there is no export to 'onnx'; there are ctranslate2"):
        export(trained, "onnx")
    with pytest.raises(RunError):
        export(Run("nothing"), "ctranslate2")
