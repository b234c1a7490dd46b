"""Distances between surfaces against values worked out by hand, and element areas against MONAI's."""

import numpy as np
import pytest
from monai.metrics.utils import get_code_to_measure_table
from nibabel.eulerangles import euler2mat

from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.surface_metrics import (
    CORNERS,
    assd,
    element_areas,
    hd95_directed,
    hd95_pooled,
    hd95_surface_weighted,
    nsd_1mm,
    nsd_2mm,
    surface_dice,
    surface_distances,
    weighted_surface_distances,
)

SURFACE_METRICS = [
    hd95_directed,
    hd95_pooled,
    hd95_surface_weighted,
    assd,
    nsd_1mm,
    nsd_2mm,
]
ROW = [((5, 5, 5), (4, 1, 1))]


def test_only_voxels_with_a_face_to_the_outside_are_surface(make_pair):
    cube = [((5, 5, 5), (4, 4, 4))]
    assert surface_distances(make_pair(predicted=cube, reference=cube)).to_reference.size == 4**3 - 2**3


def test_the_edge_of_the_image_is_outside(make_pair):
    full = [((0, 0, 0), (3, 3, 3))]
    pair = make_pair(predicted=full, reference=full, shape=(3, 3, 3))
    assert surface_distances(pair).to_reference.size == 26


def test_distances_of_a_shifted_row_equal_those_worked_out_by_hand(make_pair):
    pair = make_pair(predicted=[((7, 5, 5), (4, 1, 1))], reference=ROW, spacing=(3.0, 1.0, 1.0))
    assert sorted(surface_distances(pair).to_reference) == [0, 0, 3, 6]
    assert assd(pair) == pytest.approx(9 / 4)
    assert hd95_directed(pair) == pytest.approx(3 + 0.85 * 3)  # place 0.95 * 3 of 0..3, between 3 and 6
    assert nsd_2mm(pair) == 0.5
    assert surface_dice(pair, tolerance_mm=3) == 0.75


def test_directed_takes_the_worse_direction_and_pooled_both_together(make_pair):
    pair = make_pair(predicted=[((5, 5, 5), (1, 1, 1)), ((5, 5, 15), (1, 1, 1))], reference=ROW)
    reference, predicted = [0, 1, 2, 3], [0, 10]
    assert hd95_directed(pair) == pytest.approx(np.percentile(predicted, 95))
    assert hd95_pooled(pair) == pytest.approx(np.percentile(reference + predicted, 95))


def test_the_area_of_a_large_cube_is_close_to_that_of_its_faces(make_pair):
    cube = [((2, 2, 2), (16, 16, 16))]
    _, _, areas = weighted_surface_distances(make_pair(predicted=cube, reference=cube))
    assert areas.sum() == pytest.approx(6 * 16**2, rel=0.06)


def test_weights_keep_a_finely_sampled_side_from_outvoting_a_large_one(make_pair):
    """The thin side that is 1 mm off has a tenth of the surface's voxels, but little of its area."""
    pair = make_pair(
        predicted=[((2, 2, 2), (31, 30, 10))],
        reference=[((2, 2, 2), (30, 30, 10))],
        spacing=(1.0, 1.0, 0.1),
        shape=(40, 40, 14),
    )
    assert hd95_directed(pair) == 1
    assert hd95_surface_weighted(pair) < 0.5


@pytest.mark.parametrize("metric", SURFACE_METRICS, ids=lambda metric: metric.name)
def test_turning_and_flipping_the_grid_changes_nothing(metric, boxes):
    predicted = boxes(((4, 5, 6), (6, 5, 4)), ((15, 15, 15), (2, 2, 2)))
    reference = boxes(((5, 5, 5), (5, 5, 5)))
    spacing = np.diag([0.9, 0.9, 5.0])
    straight, turned = np.eye(4), np.eye(4)
    straight[:3, :3] = spacing
    turned[:3, :3] = euler2mat(0.3, -0.7, 1.1) @ spacing @ np.diag([1, -1, 1])
    turned = turned.astype(np.float32)  # as a header stores it
    values = [metric(MaskPair(predicted, reference, affine=affine)) for affine in (straight, turned)]
    assert values[1] == pytest.approx(values[0], abs=1e-4)


@pytest.mark.parametrize("metric", SURFACE_METRICS, ids=lambda metric: metric.name)
def test_the_order_of_the_axes_changes_nothing(metric, boxes):
    predicted, reference = boxes(((4, 5, 6), (6, 5, 4))), boxes(((5, 5, 5), (5, 5, 5)))
    pair = MaskPair(predicted, reference, affine=np.diag([0.9, 1.2, 5.0, 1.0]))
    swapped = MaskPair(predicted.T, reference.T, affine=np.diag([5.0, 1.2, 0.9, 1.0]))
    assert metric(swapped) == pytest.approx(metric(pair))


def test_a_distance_at_the_tolerance_agrees_whatever_the_header_rounded_off(make_pair):
    pair = make_pair(
        predicted=[((6, 5, 5), (4, 1, 1))], reference=ROW, spacing=(float(np.nextafter(1, 2)), 1.0, 1.0)
    )
    assert nsd_1mm(pair) == 1


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
