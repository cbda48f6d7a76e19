import subprocess
import sys

import numpy as np
import pytest

from conftest import corpus_settings
from titlesmith import corpus as corpora
from titlesmith import models
from titlesmith.harvest import harvest
from titlesmith.models import BASE, base, shapes
from titlesmith.runs import Run
from titlesmith.settings import defaults
from titlesmith.train import start_engine


@pytest.fixture
def weights():
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes(BASE).items()}


def test_weights_keep_their_names_and_shapes_and_lose_half_a_step_of_their_row_at_most(weights):
    weights["model/wte"][7] = 0  # a row of zeros has no scale
    read = base.dequantize(base.quantize(weights), BASE)
    for name, value in weights.items():
        assert read[name].shape == value.shape
        half_step = np.abs(value).max() / base.MAX_INT8 / 2
        assert np.abs(read[name] - value).max() <= half_step + 1e-3 * np.abs(value).max()
    assert not read["model/wte"][7].any()


def test_the_package_has_the_model_its_vocabulary_and_its_card():
    assert (base.FOLDER / base.WEIGHTS).stat().st_size <= 7_000_000
    weights, tokenizer = base.read()
    assert all(np.isfinite(value).all() for value in weights.values())
    assert len(tokenizer) == BASE["n_vocab"]
    card = (base.FOLDER / "README.md").read_text("utf-8")
    assert "license: cc0-1.0" in card and "eess.AS" in card


def test_training_starts_from_the_same_weights(project):
    assert models.fetch("base") == models.folder("base") == base.FOLDER
    run = Run("r")
    run.begin("harvest", {})
    harvest(run, defaults("harvest") | {"source": "sample", "num_papers": 80})
    run.begin("corpus", {})
    corpus = corpora.build(run, corpus_settings(model="base"), models.vocabulary("base"), models.context("base"))
    weights = start_engine(run, "base", corpus, seed=1).weights()
    for name, value in base.read()[0].items():
        np.testing.assert_array_equal(weights[name.removeprefix("model/")], value)


def test_titles_are_generated_without_a_run(project):
    command = [sys.executable, "-m", "titlesmith", "generate", "base", "-n", "3", "--prefix", "Neural"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    titles = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(titles) == 3 and all(title.startswith("Neural") for title in titles)


def test_texts_unlike_titles_are_told_of_better_models():
    assert "smollm2 and 124M suit them better" in base.advice("base", 2.8)
    assert base.advice("base", 1.7) == base.advice("base", None) == base.advice("scratch", 2.8) == ""
