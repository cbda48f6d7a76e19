import numpy as np
import pytest

from titlesmith.corpus.tokenizer import Tokenizer
from titlesmith.models import BASE, base, shapes


@pytest.fixture
def weights():
    rng = np.random.default_rng(1)
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes(BASE).items()}


def test_weights_keep_their_names_and_shapes_and_lose_half_a_step_of_their_row_at_most(weights, tmp_path):
    weights["model/wte"][7] = 0  # a row of zeros has no scale
    base.write(weights, Tokenizer.learn(["a b c"] * 9, 300), tmp_path)
    assert (tmp_path / base.WEIGHTS).stat().st_size <= 7_000_000
    read, tokenizer = base.read(tmp_path)
    assert tokenizer.encode("a b") == Tokenizer.load(tmp_path).encode("a b")
    for name, value in weights.items():
        assert read[name].shape == value.shape
        half_step = np.abs(value).max() / base.MAX_INT8 / 2
        assert np.abs(read[name] - value).max() <= half_step + 1e-3 * np.abs(value).max()
    assert not read["model/wte"][7].any()
