import numpy as np
import pytest

from sgnet_nnunet.evaluation.lesion_metrics import find_lesions, match_lesions


def mask(*voxels, shape=(6, 6, 6)):
    array = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def lesions(*voxels, **kwargs):
    return find_lesions(mask(*voxels, **kwargs), spacing=(1.0, 1.0, 2.0))


def test_voxels_that_touch_by_a_corner_are_one_lesion():
    assert lesions((0, 0, 0), (1, 1, 1), (3, 3, 3)).number == 2


def test_volume_and_diameter_are_in_mm():
    found = lesions((0, 0, 0), (0, 0, 1))
    assert found.volumes_mm3.tolist() == [4.0]
    assert found.diameters_mm[0] == pytest.approx(2 * (4 / (4 / 3 * np.pi)) ** (1 / 3))


def test_empty_mask_has_no_lesion():
    assert lesions().number == 0


def test_one_common_voxel_detects_a_lesion_and_the_rest_are_false():
    reference = lesions((0, 0, 0), (0, 0, 1), (3, 3, 3))
    match = match_lesions(lesions((0, 0, 1), (5, 5, 5), (5, 0, 0)), reference)
    assert match.detected.tolist() == [True, False]
    assert match.false_positives == 2


def test_one_component_can_find_two_lesions():
    bridge = [(0, 0, z) for z in range(5)]
    match = match_lesions(lesions(*bridge), lesions((0, 0, 0), (0, 0, 4)))
    assert match.detected.all()
    assert match.false_positives == 0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        match_lesions(lesions(), lesions(shape=(5, 6, 6)))
