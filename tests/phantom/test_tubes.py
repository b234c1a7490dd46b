import numpy as np
import pytest

from sgnet_nnunet.phantom.geometry import densify, stamp


def test_curve_passes_its_ends_in_even_steps():
    curve = densify(np.array(((0.0, 0, 0), (10, 0, 0), (10, 20, 0))), step=0.5)
    np.testing.assert_allclose(curve[0], (0, 0, 0))
    np.testing.assert_allclose(curve[-1], (10, 20, 0))
    assert np.linalg.norm(np.diff(curve, axis=0), axis=1).max() < 1.0


def test_ball_has_its_volume():
    volume = np.zeros((30, 30, 30), dtype=np.float32)
    spacing = np.array((1.0, 1.0, 1.0))
    stamp(volume, np.array(((15.2, 14.7, 15.1),)), np.array((6.0,)), spacing=spacing)
    assert volume.sum() == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)
    assert volume.max() == 1


def test_a_tube_thinner_than_a_voxel_fills_no_voxel():
    volume = np.zeros((20, 20, 20), dtype=np.float32)
    line = densify(np.array(((3.0, 10, 10), (17, 10, 10))), step=0.5)
    stamp(volume, line, np.full(len(line), 0.4), spacing=np.array((1.0, 1.0, 1.0)))
    assert 0 < volume.max() < 0.6


def test_what_lies_outside_is_left_out():
    volume = np.zeros((10, 10, 10), dtype=np.float32)
    stamp(volume, np.array(((-20.0, 5, 5),)), np.array((2.0,)), spacing=np.array((1.0, 1.0, 1.0)))
    assert not volume.any()
