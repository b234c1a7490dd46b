import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.base_trainer import TrainingLength


def test_nothing_set_gives_the_defaults():
    assert TrainingLength.from_environment({}) == TrainingLength()


def test_each_variable_sets_its_number():
    environment = {"SGNET_EPOCHS": "3", "SGNET_ITERS": "4", "SGNET_VAL_ITERS": "5", "SGNET_PATIENCE": "6"}
    assert TrainingLength.from_environment(environment) == TrainingLength(
        epochs=3, iters=4, val_iters=5, patience=6
    )


@pytest.mark.parametrize("text", ["ten", "1.5", "0", "-1", ""])
def test_what_is_no_count_is_refused_with_the_variable_and_its_value(text):
    with pytest.raises(SGNetError, match=f"SGNET_EPOCHS='{text}'"):
        TrainingLength.from_environment({"SGNET_EPOCHS": text})


def test_patience_zero_never_stops():
    assert not TrainingLength(patience=0).stalled([0.5] * 100)


def test_stops_when_patience_runs_out_and_not_before():
    length = TrainingLength(patience=3)
    assert not length.stalled([])
    assert not length.stalled([0.5, 0.4, 0.4])
    assert length.stalled([0.5, 0.4, 0.4, 0.4])
    assert not length.stalled([0.5, 0.4, 0.4, 0.51])
