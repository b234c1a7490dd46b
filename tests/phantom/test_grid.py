import numpy as np
import pytest

from sgnet_nnunet.phantom.geometry import axes_of, centred_grid, rotation


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
