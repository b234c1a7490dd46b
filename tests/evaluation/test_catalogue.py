import numpy as np
import pytest

from sgnet_nnunet.evaluation.lesion_metrics import lesion_rows
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import CASE_METRICS, PRESETS, measure


def test_every_case_gets_every_metric_by_name(make_pair):
    lesion = [((2, 2, 2), (3, 3, 3))]
    values = measure(make_pair(predicted=lesion, reference=lesion))
    assert list(values) == [metric.name for metric in CASE_METRICS]
    assert values["dice"] == 1


def test_presets_are_measured_by_name(make_pair):
    lesion = [((2, 2, 2), (3, 3, 3))]
    pair = make_pair(predicted=lesion, reference=lesion)
    assert measure(pair, PRESETS["brats2023"]) == {"brats2023_dice": 1, "brats2023_hd95_mm": 0}
    assert measure(pair, PRESETS["brats2026"]).keys() == {
        "brats2026_small_f1",
        "brats2026_large_dice",
        "brats2026_large_nsd_1mm",
        "brats2026_large_hd95_mm",
    }


def test_the_order_in_memory_changes_nothing(boxes):
    """Readers differ in it: nibabel gives Fortran order."""
    masks = (
        boxes(((4, 5, 6), (6, 5, 4)), ((15, 15, 15), (2, 2, 2))),
        boxes(((5, 5, 5), (5, 5, 5)), ((1, 9, 15), (2, 2, 2)), ((9, 1, 15), (2, 2, 1))),
    )
    affine = np.array([[0, -2.0, 0, 10], [1.0, 0, 0, 20], [0, 0, -3.0, 30], [0, 0, 0, 1]])
    metrics = (*CASE_METRICS, *(metric for preset in PRESETS.values() for metric in preset))
    expected = MaskPair(*masks, affine=affine)
    fortran = [np.asfortranarray(mask) for mask in masks]
    for others in (fortran, [masks[0], fortran[1]]):
        pair = MaskPair(*others, affine=affine)
        assert measure(pair, metrics) == pytest.approx(measure(expected, metrics), nan_ok=True)
        for ours, theirs in zip(lesion_rows(pair), lesion_rows(expected), strict=True):
            assert ours.centroid_mm == pytest.approx(theirs.centroid_mm)
            assert (ours.status, ours.dice, ours.hd95_mm) == (theirs.status, theirs.dice, theirs.hd95_mm)
