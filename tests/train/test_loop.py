from itertools import pairwise

import pytest

from titlesmith.train.loop import learning_rate


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_learning_rate_rises_to_its_peak_and_does_not_rise_again(schedule):
    short = {"learning_rate": 0.5, "warmup_steps": 100, "steps": 12, "schedule": schedule}
    assert learning_rate(4, short) == 0.5, "a third of a short training warms up"
    chosen = {"learning_rate": 0.5, "warmup_steps": 4, "steps": 20, "schedule": schedule}
    rates = [learning_rate(step, chosen) for step in range(1, 21)]
    assert rates[:4] == [0.125, 0.25, 0.375, 0.5]
    assert all(a >= b > 0 for a, b in pairwise(rates[4:]))
    assert rates[4] == 0.5
    assert (rates[-1] == 0.5) is (schedule == "constant")
    assert rates[-1] == 0.5 or rates[-1] < 0.05
