"""The catalogue of models."""

import json

import pytest

from titlesmith import models
from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.errors import RequestError
from titlesmith.models import gpt2_checkpoint

TINY = {"n_vocab": 300, "n_ctx": 64, "n_embd": 32, "n_head": 2, "n_layer": 2}


@pytest.fixture
def own(project):
    """A folder ``models/own`` in gpt-2-simple's layout, with a model of zeros."""
    import numpy as np

    folder = project / "models" / "own"
    folder.mkdir(parents=True)
    Tokenizer.learn([f"word{i} word{i}" for i in range(100)], 300).save_gpt2(folder)
    (folder / "hparams.json").write_text(json.dumps(TINY))
    weights = {name: np.zeros(shape, np.float32) for name, shape in models.shapes(TINY).items()}
    gpt2_checkpoint.save(folder / "model.ckpt", weights)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    return folder


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("82M", 81_912_576),
        ("124M", 124_439_808),
        ("355M", 354_823_168),
        ("774M", 774_030_080),
        ("1558M", 1_557_611_200),
    ],
)
def test_gpt2_models_have_their_published_number_of_parameters(name, count):
    assert models.num_parameters(models.GPT2[name]) == count


def test_gpt2_models_are_known_before_they_are_downloaded(project):
    assert models.context("774M") == 1024 and models.hyperparameters("774M", 0)["n_layer"] == 36
    with pytest.raises(RequestError, match="nearby") as error:
        models.hyperparameters("nearby", 0)
    assert "base, smollm2, 82M, 124M" in str(error.value)


def test_the_error_for_a_missing_model_says_what_to_copy_where(project):
    with pytest.raises(RequestError) as error:
        models.folder("124M")
    for words in (str(project / "models" / "124M"), "titlesmith models get 124M", "hparams.json", "vocab.bpe"):
        assert words in str(error.value)


def test_folders_are_listed(own):
    published = ["smollm2", "82M", "124M", "355M", "774M", "1558M"]
    assert models.names() == ["scratch", "scratch-base", "base", *published, "models/own", "hf:scratch"]
    assert models.hyperparameters("models/own", 0) == TINY and models.folder("models/own") == own


def test_a_truncated_checkpoint_is_not_a_model(own):
    data = own / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(RequestError, match=r"lacks model\.ckpt\.data-\* \(.* of .* bytes\)"):
        models.folder("models/own")


@pytest.mark.parametrize("content", ["{", "[]", '{"n_vocab": 300}'])
def test_damaged_hyperparameters_are_named(own, content):
    (own / "hparams.json").write_text(content)
    with pytest.raises(RequestError, match=r"hparams\.json is damaged.*n_layer"):
        models.folder("models/own")
