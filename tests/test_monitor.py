import math

import pytest

from titlesmith.monitor import Monitor, read
from titlesmith.run import Run

SETTINGS = {"steps": 5, "loss_floor": 0.1, "save_every": 2, "sample_every": 0, "validate_every": 3}


def follow(losses: list[float], step: int = 0, **settings) -> Monitor:
    monitor = Monitor(Run("r"), SETTINGS | settings)
    monitor.start(step, epoch=100)
    for number, loss in enumerate(losses, step + 1):
        if monitor.reason:
            break
        monitor.step(step=number, tokens=10, loss=loss, valid_loss=None, learning_rate=0.1, grad_norm=abs(loss))
    monitor.close()
    return monitor


def test_every_step_is_a_row_at_once(project):
    monitor = Monitor(Run("r"), SETTINGS)
    monitor.start(0, epoch=100)
    monitor.step(step=1, tokens=10, loss=2.0, valid_loss=1.5, learning_rate=0.1, grad_norm=1.0)
    (row,) = read(monitor.history)
    assert row == row | {"step": 1, "epoch": 0.1, "tokens": 10, "loss": 2.0, "loss_smoothed": 2.0, "valid_loss": 1.5}
    monitor.close()


def test_smoothing_of_a_constant_is_the_constant(project):
    rows = read(follow([3.0] * 5).history)
    assert all(row["loss_smoothed"] == pytest.approx(3.0) for row in rows)


def test_stops_at_the_last_step_and_says_so(project):
    monitor = follow([2.0] * 9)
    assert monitor.reason == "all 5 steps were done"
    assert len(read(monitor.history)) == 5


def test_stops_below_the_floor_of_the_smoothed_loss_not_of_one_step(project):
    assert follow([2.0, 0.01, 2.0, 2.0, 2.0]).reason == "all 5 steps were done"
    assert "fell below the floor of 0.1 at step 2" in follow([0.11, 0.05, 0.05]).reason
    assert follow([0.01] * 9, loss_floor=0.0).reason == "all 5 steps were done"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_stops_at_a_loss_that_is_not_finite(project, loss):
    reason = follow([2.0, loss]).reason
    assert f"the loss was {loss}" in reason and "the model of step 1 was kept" in reason


def test_a_resumed_history_equals_an_uninterrupted_one(project):
    losses = [5.0, 4.1, 3.3, 2.7, 2.2]
    whole = read(follow(losses).history)
    follow(losses[:4])
    with (Run("r") / "history.csv").open("a") as file:
        file.write("5,0.5,5")  # cut short by a kill
    resumed = read(follow(losses[2:], step=2).history)
    for a, b in zip(whole, resumed, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


def test_a_training_that_had_stopped_stays_stopped(project):
    follow([0.01] * 3)
    assert "fell below the floor" in follow([], step=1).reason


def test_due(project):
    monitor = Monitor(Run("r"), SETTINGS)
    assert [step for step in range(1, 6) if monitor.due("save", step)] == [2, 4, 5]
    assert [step for step in range(1, 6) if monitor.due("validate", step)] == [3, 5]
    assert [step for step in range(1, 6) if monitor.due("sample", step)] == [5]
