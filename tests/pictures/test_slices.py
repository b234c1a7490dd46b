import numpy as np

from sgnet_nnunet.pictures.slices import radiological_slice


def test_slice_shows_anterior_up_and_the_patients_right_on_the_left():
    volume = np.zeros((3, 4, 2))  # RAS: x grows to the right, y to the front
    volume[2, 3, 1] = 1  # right, anterior
    shown = radiological_slice(volume, 1)
    assert shown.shape == (4, 3)
    assert shown[0, 0] == 1
