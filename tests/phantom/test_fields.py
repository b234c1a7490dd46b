import numpy as np
import pytest

from sgnet_nnunet.phantom.geometry import SmoothField

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
