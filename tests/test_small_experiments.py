"""The small experiments on models of the transformers library, on made-up papers and a model that is smaller yet."""

import pytest
import yaml

from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith import train as engines
from titlesmith.experiment import Experiment, find
from titlesmith.generate import Probe, open_backend, write_texts
from titlesmith.harvest import harvest
from titlesmith.models import hub
from titlesmith.runs import Run
from titlesmith.train import monitor

pytest.importorskip("transformers")
TINY = {"n_ctx": 512, "n_embd": 32, "n_head": 2, "n_layer": 1}
QUICK = ("harvest.source=sample", "harvest.num_papers=150", "corpus.vocabulary=500", "corpus.order=random")
FEW = ("finetune.steps=12", "finetune.batch_size=2", "finetune.block_size=256", "finetune.learning_rate=0.01")
SHORT = ("finetune.validate_every=6", "finetune.sample_every=0", "generate.max_tokens=24", "generate.count=1")


@pytest.mark.parametrize("name", ["abstract-to-title", "title-to-abstract", "category-title-to-abstract", "synopses"])
def test_the_loss_falls_and_texts_are_written(project, monkeypatch, name):
    monkeypatch.setattr(hub, "SCRATCH", TINY)
    settings = Experiment.read(find(f"{name}-small"), (*QUICK, *FEW, *SHORT)).settings
    run, model = Run("small"), settings["finetune"]["model"]
    run.begin("harvest", settings["harvest"])
    harvest(run, settings["harvest"])
    run.begin("corpus", settings["corpus"])
    corpus = corpora.build(run, settings["corpus"], models.vocabulary(model), models.context(model))
    run.begin("finetune", settings["finetune"])
    engine = engines.start_engine(run, model, corpus, 1)
    probe = Probe(corpus, settings["finetune"])
    engines.finetune(engine, corpus, settings["finetune"], monitor.Monitor(run, settings["finetune"]), probe)
    run.finish("finetune")
    rows = monitor.read(run / "history.csv")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    run.begin("generate", settings["generate"])
    rows = write_texts(run, open_backend(run), corpus, settings["generate"])
    assert rows and all((row["paper"] is not None) is corpus.has_prompt for row in rows)


@pytest.mark.parametrize("name", ["abstract-to-title", "title-to-abstract", "category-title-to-abstract", "synopses"])
def test_the_reports_settings_are_allowed(project, name):
    overrides = ("harvest.source=sample", "model=hf:scratch", "finetune.lora_rank=0", "finetune.quantize=none")
    settings = Experiment.read(find(name), overrides).settings
    written = yaml.safe_load(find(name).read_text())
    assert (
        written["model"].startswith(("hf:", "82M"))
        and settings["finetune"]["epochs"]
        and settings["finetune"]["schedule"] == "linear"
    )
