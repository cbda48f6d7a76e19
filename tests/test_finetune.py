from titlesmith.finetune import advise_rate


def row(step: int, epoch: float, valid_loss: float | None) -> dict:
    return {"step": step, "epoch": epoch, "valid_loss": valid_loss}


def test_a_first_validation_that_is_worse_than_before_training_asks_for_a_lower_rate():
    rows = [row(74, 0.5, None), row(75, 0.52, 2.93), row(150, 1.04, 2.63)]
    advice = advise_rate(15.0, rows)
    assert "step 75" in advice and "2.93" in advice and "2.71" in advice and "finetune.learning_rate" in advice


def test_there_is_no_such_advice_for_a_loss_that_fell_or_rose_later_or_is_unknown():
    assert advise_rate(15.0, [row(75, 0.5, 2.60), row(150, 1.0, 3.5)]) == ""
    assert advise_rate(15.0, [row(75, 1.2, 3.5)]) == "", "it memorizes"
    assert advise_rate(None, [row(75, 0.5, 2.93)]) == advise_rate(15.0, [row(1, 0.1, None)]) == ""
