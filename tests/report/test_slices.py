import numpy as np
import pytest

from sgnet_nnunet.report.slices import radiological_slice, white_level


def test_slice_shows_anterior_up_and_the_patients_right_on_the_left():
    volume = np.zeros((3, 4, 2))  # RAS: x grows to the right, y to the front
    volume[2, 3, 1] = 1  # right, anterior
    shown = radiological_slice(volume, 1)
    assert shown.shape == (4, 3)
    assert shown[0, 0] == 1


def test_background_does_not_count_in_the_white_level():
    brain = np.random.default_rng(0).uniform(1, 100, 1000)
    volume = np.concatenate([np.zeros(9000), brain]).reshape(10, 10, 100)
    assert white_level(volume) == pytest.approx(np.percentile(brain, 99.5))


def test_nothing_above_zero_leaves_the_white_level_at_one():
    assert white_level(np.zeros((2, 2, 2))) == 1
