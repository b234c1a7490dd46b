"""The plane between the hemispheres of a head that is turned, and where points lie."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient.midline import find_midline


def moved(head, turn=(0, 0, 0), shift=(0, 0, 0)):
    """Return T1ce turned about the world's axes by angles in degrees, then shifted in mm; and its affine."""
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    move[:3, 3] = shift
    return Volume(head[0].data, move @ head[0].affine), move


@pytest.mark.parametrize(
    "turn", [(0, 0, 0), (0, 0, 14), (0, 0, -9), (0, 11, 0), (0, -13, 6), (5, 4, -12)], ids=str
)
def test_plane_follows_a_head_that_is_turned_and_shifted(head, turn):
    volume, move = moved(head, turn, shift=(17.0, -8.0, 30.0))
    midline = find_midline(volume)
    normal = move[:3, 0] / np.linalg.norm(move[:3, 0])
    assert np.rad2deg(np.arccos(midline.axes[0] @ normal)) < 3
    centre = move @ [*HEAD_CENTRE, 1]
    assert abs(midline.axes[0] @ centre[:3] - midline.offset) < 2


HEAD_CENTRE = (3.0, -10.0, 20.0)

PLACES = {  # mm to the right, front and top of the middle of a head of 72 x 90 x 76 mm
    (24, 30, 10): ("right", "frontal"),
    (-24, 30, 10): ("left", "frontal"),
    (20, -14, 26): ("right", "parietal"),
    (-12, -36, 5): ("left", "occipital"),
    (-28, 5, -12): ("left", "temporal"),
    (14, -25, -25): ("right", "cerebellum"),
    (0, -2, -26): ("midline", "brainstem"),
    (8, 5, -2): ("right", "deep"),
}


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("turn", [(0, 0, 0), (0, 8, -15)], ids=str)
def test_points_are_named_by_side_and_region_whatever_the_turn(head, place, turn):
    volume, move = moved(head, turn)
    world = (move @ [*np.add(HEAD_CENTRE, place), 1])[:3]
    midline = find_midline(volume)
    assert (midline.hemisphere(world), midline.location(world)) == PLACES[place]


def test_nearly_empty_brain_has_a_plane_through_its_middle():
    data = np.zeros((20, 20, 20), dtype=np.float32)
    data[9:11, 9:11, 9:11] = 1
    midline = find_midline(Volume(data, np.eye(4)))
    assert np.isfinite([*midline.axes.ravel(), midline.offset]).all()
    assert midline.hemisphere(np.array([19.0, 10.0, 10.0])) == "right"
