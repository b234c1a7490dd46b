"""Grids, smooth fields and tubes."""

import numpy as np
import pytest

from sgnet_nnunet.phantom.fields import SmoothField, axes_of, centred_grid, densify, rotation, stamp


@pytest.fixture
def grid():
    return centred_grid(
        centre=np.array((5.0, -3.0, 10.0)),
        extent=np.array((20.0, 30.0, 41.0)),
        spacing=np.array((1.0, 2.0, 4.0)),
        turn=rotation(np.array((10.0, 5.0, -3.0))),
    )


def test_grid_covers_the_extent_around_its_centre(grid):
    assert grid.shape == (20, 15, 11)
    np.testing.assert_allclose(grid.spacing, (1, 2, 4))
    np.testing.assert_allclose(grid.extent, (20, 30, 44))
    assert grid.voxel_mm3 == pytest.approx(8)
    middle = grid.affine @ (*((np.array(grid.shape) - 1) / 2), 1)
    np.testing.assert_allclose(middle[:3], (5, -3, 10))


def test_axes_are_positions_in_mm(grid):
    np.testing.assert_allclose(axes_of(grid)[2][:3], (0, 4, 8))


EXTENT = np.array((120.0, 100.0, 90.0))


def axes(step):
    return [np.arange(0, side, step) for side in EXTENT]


def test_field_has_zero_mean_and_unit_variance():
    values = SmoothField(np.random.default_rng(0), EXTENT, 5.0).on(axes(2.0))
    assert values.shape == (60, 50, 45)
    assert abs(values.mean()) < 0.1
    assert values.std() == pytest.approx(1, abs=0.1)


def test_field_is_the_same_on_every_grid():
    field = SmoothField(np.random.default_rng(0), EXTENT, 20.0)
    np.testing.assert_allclose(field.on(axes(1.0))[::3, ::3, ::3], field.on(axes(3.0)), atol=1e-5)


def test_longer_wavelengths_are_smoother():
    def roughness(wavelength):
        values = SmoothField(np.random.default_rng(0), EXTENT, wavelength).on(axes(2.0))
        return np.abs(np.diff(values, axis=0)).mean()

    assert roughness(40.0) < roughness(10.0) / 2


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
