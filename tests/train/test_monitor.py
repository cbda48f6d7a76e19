import math

import pytest
from tensorboardX.proto.event_pb2 import Event

from titlesmith.runs import Run
from titlesmith.train.monitor import Monitor, kept_step, memorization_floor, read

SETTINGS = {"loss_floor": 0.1, "patience": 0, "save_every": 2, "sample_every": 0, "validate_every": 3}


def follow(losses: list[float], step: int = 0, valid: list[float | None] | None = None, **settings) -> Monitor:
    monitor = Monitor(Run("r"), SETTINGS | settings)
    monitor.start(step, steps=5, epoch=100, step_tokens=64)
    for number, loss in enumerate(losses, step + 1):
        if monitor.reason:
            break
        measured = {"valid_loss": valid[number - 1], "copy_rate": 0.0} if valid else {}
        row = {"step": number, "tokens": 10, "loss": loss, "learning_rate": 0.1, "grad_norm": abs(loss)} | measured
        reason = monitor.stop_reason(row)
        monitor.step(**row)
        assert monitor.reason == reason, "the step is recorded with the reason that was computed before"
    monitor.close()
    return monitor


def test_every_step_is_a_row_at_once(project):
    monitor = Monitor(Run("r"), SETTINGS)
    monitor.start(0, steps=5, epoch=100, step_tokens=64_000)
    monitor._started -= 2000
    monitor.step(step=1, tokens=10, loss=2.0, valid_loss=1.5, learning_rate=0.1, grad_norm=1.0)
    (row,) = read(monitor.history)
    assert row == row | {"step": 1, "epoch": 0.1, "tokens": 10, "loss": 2.0, "loss_smoothed": 2.0, "valid_loss": 1.5}
    assert monitor._bar.postfix.endswith("best valid 1.500, 32 tokens read/s"), "of all tokens, not of targets only"
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
    assert f"the loss was {loss}" in reason and "step 2; that step was not applied" in reason


def test_a_resumed_history_equals_an_uninterrupted_one(project):
    losses = [5.0, 4.1, 3.3, 2.7, 2.2]
    uninterrupted = read(follow(losses).history)
    follow(losses[:4])
    with (Run("r") / "history.csv").open("a") as file:
        file.write("5,0.5,5")  # cut short by a kill
    resumed = read(follow(losses[2:], step=2).history)
    for a, b in zip(uninterrupted, resumed, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


def test_a_training_that_had_stopped_stays_stopped(project):
    follow([0.01] * 3, valid=[3.0] * 5)
    assert "fell below the floor" in follow([], step=1).reason


def test_a_training_that_is_ended_stops_at_its_checkpoint(project):
    losses = [5.0, 4.1, 3.3, 2.7, 2.2]
    follow(losses[:3])
    Run("r").update_stage("finetune", ended=True)
    for _ in range(2):  # it stays ended
        ended = follow(losses, step=2)
        assert ended.reason == "it was ended at step 2 of 5" and len(read(ended.history)) == 2


def test_due(project):
    monitor = Monitor(Run("r"), SETTINGS)
    assert [step for step in range(1, 6) if monitor.due("save", step)] == [2, 4]
    assert [step for step in range(1, 6) if monitor.due("validate", step)] == [3]
    assert not any(monitor.due("sample", step) for step in range(1, 6))


VALID = [3.0, None, 2.0, 2.5, 2.1]


def test_patience_counts_validations_without_a_better_one_across_a_resume(project):
    assert follow([2.0] * 5, valid=VALID).reason == "all 5 steps were done"
    assert follow([2.0] * 5, valid=VALID, patience=3).reason == "all 5 steps were done"
    assert "not improved for 2 validations at step 5" in follow([2.0] * 5, valid=VALID, patience=2).reason
    assert "not improved for 1 validations at step 4" in follow([2.0] * 5, valid=VALID, patience=1).reason
    follow([2.0] * 4, valid=VALID)
    resumed = follow([2.0], step=4, valid=VALID, patience=2)
    assert "not improved for 2 validations at step 5" in resumed.reason


def test_the_kept_step_is_that_of_the_lowest_validation_loss(project):
    rows = read(follow([2.0] * 5, valid=VALID).history)
    assert kept_step(rows, "best", 5) == 3
    assert kept_step(rows, "last", 5) == 5
    assert kept_step(read(follow([2.0] * 5).history), "best", 5) == 5


def events(folder) -> list[tuple[int, str, float]]:
    scalars = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:  # TFRecord: length, its checksum, an event, its checksum
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            scalars += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return scalars


def test_tensorboard_gets_what_the_history_gets(project):
    monitor = follow([2.0, 1.5, 1.2], valid=VALID)
    scalars = {(step, tag): value for step, tag, value in events(monitor.run / "tensorboard")}
    rows = read(monitor.history)
    for row in rows:
        for name, value in row.items():
            if name != "step" and value is not None:
                assert scalars.pop((row["step"], name)) == pytest.approx(value, rel=1e-6)
    assert not scalars


def test_the_loss_of_a_model_that_has_memorized_everything():
    # Sixteen documents of four tokens, one of them the end: log2(16) = 4 bits a document, 1 bit a token
    assert memorization_floor(16, 64, has_prompt=False) == pytest.approx(math.log(2))
    assert memorization_floor(16, 64, has_prompt=True) == 0
