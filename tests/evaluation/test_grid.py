import math

import numpy as np
import pytest

from sgnet_nnunet.nifti import Grid


def rotation(degrees):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def affine(steps, offset=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = steps, offset
    return matrix


def test_spacing_volume_and_diagonal_survive_a_turn_and_a_flip():
    grid = Grid((3, 4, 5), affine(rotation(33) @ np.diag([-1.0, 2.0, 3.0]), (7, 8, 9)))
    assert grid.spacing == pytest.approx((1, 2, 3))
    assert grid.voxel_mm3 == pytest.approx(6)
    assert grid.diagonal_mm == pytest.approx(math.hypot(3, 8, 15))


def test_points_of_an_unturned_grid_are_its_indices_times_the_spacing():
    grid = Grid((3, 4, 5), affine(np.diag([-0.9, 0.9, 5.0])))
    assert grid.millimetres(np.array([[1, 2, 3]])) == pytest.approx(np.array([[0.9, 1.8, 15.0]]), abs=1e-14)


def test_points_keep_their_distances_on_a_sheared_grid():
    steps = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 2.0]])
    step = np.array([[1, 2, -3]])
    distance = np.linalg.norm(Grid((3, 4, 5), affine(steps)).millimetres(step))
    assert distance == pytest.approx(np.linalg.norm(steps @ step[0]))


def test_world_coordinates_go_through_the_affine():
    grid = Grid((3, 4, 5), affine(np.diag([-1.0, 2.0, 3.0]), (10, 20, 30)))
    assert grid.world(np.array([[1.0, 1.0, 1.0]])).tolist() == [[9, 22, 33]]


@pytest.mark.parametrize(
    ("shape", "matrix", "message"),
    [
        ((3, 4), np.eye(4), r"three axes; got the shape \(3, 4\)"),
        ((3, 4, 5), np.eye(3), "finite 4x4 matrix"),
        ((3, 4, 5), np.full((4, 4), np.nan), "finite 4x4 matrix"),
        ((3, 4, 5), np.diag([1.0, 0.0, 1.0, 1.0]), "invertible; got voxels of 0 mm3"),
    ],
)
def test_unusable_grids_are_refused(shape, matrix, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, matrix)
