"""Lesions of a mask: 26-connected components, with their sizes in mm."""

import numpy as np
import pytest

from sgnet_nnunet.lesions import find_lesions


def lesions(*voxels):
    mask = np.zeros((6, 6, 6), dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return find_lesions(mask, spacing=(1.0, 1.0, 2.0))


def test_voxels_that_touch_by_a_corner_are_one_lesion():
    assert lesions((0, 0, 0), (1, 1, 1), (3, 3, 3)).number == 2


def test_volume_and_diameter_are_in_mm():
    found = lesions((0, 0, 0), (0, 0, 1))
    assert found.volumes_mm3.tolist() == [4.0]
    assert found.diameters_mm[0] == pytest.approx(2 * (4 / (4 / 3 * np.pi)) ** (1 / 3))


def test_empty_mask_has_no_lesion():
    assert lesions().number == 0
