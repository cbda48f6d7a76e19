"""Memory estimates, and the check before a training."""

import itertools
import re
import subprocess
import sys

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titlesmith import models
from titlesmith.errors import RequestError
from titlesmith.experiment import Experiment, find
from titlesmith.models import memory
from titlesmith.pipeline import chain
from titlesmith.settings import defaults

SETTINGS = defaults("finetune") | {"model": "124M", "batch_size": 64, "block_size": 1024}
sizes = st.integers(1, 64), st.integers(8, 1024)


def tensorflow_memory(shape, batch_size, block_size, bf16=False, **settings):
    settings = SETTINGS | {"vocabulary": "full", "batch_size": batch_size, "block_size": block_size} | settings
    return models.training_memory(shape, settings, bf16)


@hypothesis.settings(max_examples=25)
@given(*sizes, st.booleans(), st.booleans(), st.sampled_from(sorted(models.GPT2)))
def test_more_rows_longer_rows_and_wider_operands_need_more_memory(rows, block, bf16, checkpointing, name):
    def needed(rows, block, bf16=bf16, checkpointing=checkpointing, name=name):
        return tensorflow_memory(models.GPT2[name], rows, block, bf16=bf16, checkpointing=checkpointing)

    assert needed(rows, block) <= min(needed(rows + 1, block), needed(rows, block + 1))
    assert needed(rows, block, bf16=True) < min(needed(rows + 1, block, bf16=True), needed(rows, block + 1, bf16=True))
    assert needed(rows, block, bf16=True) < needed(rows, block, bf16=False)
    assert needed(rows, block, checkpointing=True) <= needed(rows, block, checkpointing=False)
    for smaller, larger in itertools.pairwise(models.GPT2):
        assert needed(rows, block, name=smaller) < needed(rows, block, name=larger)


def test_estimates_are_close_to_measured_peaks():
    """Peaks in GB on two CPU cores."""
    made_of = models.GPT2["124M"]
    small_vocabulary, shallow = made_of | {"n_vocab": 4608}, made_of | {"n_layer": 2}
    for peak, estimate in (
        (4.80, tensorflow_memory(made_of, 1, 64, bf16=True)),
        (5.60, tensorflow_memory(made_of, 1, 64)),
        (5.90, tensorflow_memory(made_of, 8, 128)),
        (5.48, tensorflow_memory(made_of, 8, 128, bf16=True)),
        (7.08, tensorflow_memory(made_of, 4, 512, bf16=True)),
        (6.66, tensorflow_memory(made_of, 4, 512, checkpointing=True)),
        (6.57, tensorflow_memory(made_of, 16, 128, bf16=True)),
        (7.09, tensorflow_memory(made_of, 2, 1024, bf16=True)),
        (5.63, tensorflow_memory(made_of, 2, 1024, bf16=True, checkpointing=True)),
        (6.45, tensorflow_memory(made_of, 1, 64, bf16=True, accumulate=4)),
        (3.53, tensorflow_memory(made_of, 1, 64, bf16=True, layers="transformer")),
        (6.54, tensorflow_memory(made_of, 8, 256, bf16=True)),
        (3.44, tensorflow_memory(small_vocabulary, 1, 64, bf16=True)),
        (3.04, tensorflow_memory(shallow, 1, 64, bf16=True)),
    ):
        assert 0.97 * peak <= estimate / 1e9 <= 1.13 * peak


def test_estimates_for_pytorch_are_close_to_measured_peaks():
    """Peaks in GB of SmolLM2 on two CPU cores, with the tokens of the softmax."""
    shape, settings = models.hyperparameters("smollm2", "full"), SETTINGS | {"model": "smollm2", "batch_size": 8}
    for peak, block_size, used in ((4.4, 128, 8_000), (10.3, 512, 20_732), (8.4, 512, shape["n_vocab"])):
        estimate = models.training_memory(shape, settings | {"block_size": block_size}, True, used)
        assert 0.8 * peak <= estimate / 1e9 <= 1.2 * peak


@given(st.integers(2**30, 2**36))
def test_the_error_names_the_largest_batch_and_block_that_fit(room):
    made_of = models.GPT2["124M"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda: room)

        def fits(**changed):
            try:
                models.check_memory(made_of, SETTINGS | {"vocabulary": "full"} | changed, gpu=False)
            except RequestError as error:
                return str(error)

        refused = fits()
        assert refused, "64 rows of 1,024 tokens take more than 64 GiB"
        if found := re.search(r"largest batch_size that fits is (\d+)", refused):
            rows = int(found[1])
            assert fits(batch_size=rows) is None and fits(batch_size=rows + 1)
        if found := re.search(r"largest block_size that fits is (\d+)", refused):
            block = int(found[1])
            assert fits(batch_size=1, block_size=block) is None
            assert block == 1024 or fits(batch_size=1, block_size=block + 1)
        else:
            assert "Not even one row fits" in refused and fits(batch_size=1, block_size=8)
        if "checkpointing=true" in refused:
            assert fits(checkpointing=True) is None


def test_an_experiment_that_does_not_fit_is_an_error_before_anything_runs(project, archive, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 24 * 2**30)
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    with pytest.raises(RequestError, match=r"training 1558M .* needs about 39.* GiB of memory; 24\.0 are free here"):
        chain(Experiment.read(find("gpt2-titles"), (f"harvest.path={archive}", "model=1558M")))
    assert not (project / "runs").exists(), "nothing has run"


def test_the_estimate_depends_on_the_settings(monkeypatch):
    made_of = models.GPT2["124M"]
    settings = SETTINGS | {"batch_size": 8, "block_size": 128, "vocabulary": "full"}
    monkeypatch.setattr(memory, "available_memory", lambda: 5_000_000_000)
    for changed in ({}, {"precision": "bfloat16"}, {"layers": "all"}, {"accumulate": 1}):
        with pytest.raises(RequestError, match=r"needs about 5\.4 GiB"):
            models.check_memory(made_of, settings | changed, gpu=False)
    for changed in ({"precision": "float32"}, {"accumulate": 2}):
        with pytest.raises(RequestError, match=r"needs about (5\.[5-9]|[67])"):
            models.check_memory(made_of, settings | changed, gpu=False)
    for changed in ({"vocabulary": "corpus"}, {"vocabulary": "auto"}, {"layers": "transformer"}):
        models.check_memory(made_of, settings | changed, gpu=False)
    with pytest.raises(RequestError):
        models.check_memory(made_of, settings | {"vocabulary": "auto"}, used_vocabulary=40_000, gpu=False)


def test_the_check_of_an_experiment_does_not_import_tensorflow(project, archive):
    script = f"""
import sys
from titlesmith.experiment import Experiment, find
Experiment.read(find("gpt2-titles"), ("harvest.path={archive}",))
print("tensorflow" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
