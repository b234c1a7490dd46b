import numpy as np
import pytest
from monai.metrics.utils import get_code_to_measure_table

from sgnet_nnunet.evaluation.surface_metrics import CORNERS, element_areas


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 1.3, 5.0), (3.0, 0.5, 0.7)])
def test_areas_are_those_of_monai(spacing):
    table, kernel = get_code_to_measure_table(spacing)
    weights = kernel.numpy().reshape(2, 2, 2).astype(int)
    for code, area in enumerate(element_areas(spacing)):
        theirs = int(weights[(code & CORNERS) > 0].sum())
        assert area == pytest.approx(float(table[theirs]), rel=1e-6)


def test_plane_between_voxels_has_the_area_of_a_face():
    code = int(CORNERS[0].sum())
    assert element_areas((1.0, 2.0, 3.0))[code] == pytest.approx(6.0)


def test_mask_and_complement_have_one_surface():
    areas = element_areas((0.9, 1.3, 5.0))
    np.testing.assert_allclose(areas, areas[::-1])
