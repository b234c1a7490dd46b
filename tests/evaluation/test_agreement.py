"""Our figures against other tools' on random masks, anisotropic voxels included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meshmetrics import DistanceMetrics
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from monai.metrics.surface_distance import compute_average_surface_distance

from sgnet_nnunet.evaluation.challenges import match_one_to_one
from sgnet_nnunet.evaluation.mask_metrics import dice
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.surface_metrics import (
    assd,
    hd95_directed,
    hd95_pooled,
    hd95_surface_weighted,
    surface_dice,
)

TOLERANCE = 1e-4

random_pairs = settings(max_examples=250, deadline=None, derandomize=True)


@st.composite
def blobs(draw, shape):
    """One to five boxes, which may touch, overlap and reach the image's edge."""
    mask = np.zeros(shape, dtype=bool)
    for _ in range(draw(st.integers(1, 5))):
        first = [draw(st.integers(0, length - 1)) for length in shape]
        mask[tuple(slice(f, f + draw(st.integers(1, 5))) for f in first)] = True
    return mask


@st.composite
def cases(draw):
    """A predicted mask, a reference, and a voxel size in mm with two decimals."""
    shape = draw(st.tuples(*[st.integers(3, 14)] * 3))
    spacing = draw(st.tuples(*[st.integers(30, 600).map(lambda hundredths: hundredths / 100)] * 3))
    return draw(blobs(shape)), draw(blobs(shape)), spacing


def paired(prediction, reference, spacing):
    return MaskPair(prediction, reference, affine=np.diag([*spacing, 1.0]))


def one_hot(prediction, reference):
    return torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]


@pytest.mark.slow
@random_pairs
@given(cases())
def test_directed_hd95_is_monais(case):
    prediction, reference, spacing = case
    theirs = compute_hausdorff_distance(
        *one_hot(prediction, reference), include_background=True, percentile=95, spacing=spacing
    )
    assert hd95_directed(paired(*case)) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.mark.slow
@random_pairs
@given(cases(), st.sampled_from([1.0, 2.0]))
def test_surface_dice_is_monais(case, tolerance):
    prediction, reference, spacing = case
    theirs = compute_surface_dice(
        *one_hot(prediction, reference), [tolerance], include_background=True, spacing=spacing
    )
    assert surface_dice(paired(*case), tolerance_mm=tolerance) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.mark.slow
@random_pairs
@given(cases())
def test_average_distance_is_monais(case):
    prediction, reference, spacing = case
    theirs = compute_average_surface_distance(
        *one_hot(prediction, reference), include_background=True, symmetric=True, spacing=spacing
    )
    assert assd(paired(*case)) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.fixture(scope="module")
def panoptica():
    """The package panoptica."""
    return pytest.importorskip(
        "panoptica", reason="panoptica needs NumPy below 2.3, which Python 3.14 has not"
    )


@pytest.mark.slow
@random_pairs
@given(case=cases())
def test_pooled_hd95_is_panopticas(case, panoptica):
    prediction, reference, spacing = case
    theirs = panoptica.Metric.HD95(reference, prediction, voxelspacing=spacing)
    assert hd95_pooled(paired(*case)) == pytest.approx(theirs, abs=TOLERANCE)


@pytest.fixture(scope="module")
def one_to_one(panoptica):
    """Return panoptica's evaluation with lesions matched one to one on Dice."""
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.MaxBipartiteMatching(
            matching_metric=panoptica.Metric.DSC, matching_threshold=1e-6
        ),
        instance_metrics=[panoptica.Metric.DSC],
        global_metrics=[panoptica.Metric.DSC],
    )
    return lambda *masks: evaluator.evaluate(*(mask.astype(np.uint8) for mask in masks))["ungrouped"]


@pytest.mark.slow
@random_pairs
@given(case=cases())
def test_one_to_one_matching_is_panopticas(case, one_to_one):
    prediction, reference, _ = case
    theirs, pair = one_to_one(prediction, reference), paired(*case)
    matching = match_one_to_one(pair)
    found = int((matching.partners >= 0).sum())
    ours = found, matching.partners.size - found, int(matching.false.sum())
    assert ours == (theirs.tp, theirs.fn, theirs.fp)
    if found:
        assert matching.dice.sum() / found == pytest.approx(theirs.sq_dsc, abs=TOLERANCE)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 3.0)])
def test_surface_weighted_hd95_is_that_of_meshes_within_a_voxel(spacing):
    grid = np.stack(np.indices((40, 40, 24)), axis=-1) * spacing
    middle = np.multiply((20, 20, 12), spacing)
    reference, prediction = (
        np.linalg.norm((grid - middle - shift) / radii, axis=-1) < 1
        for shift, radii in (((0, 0, 0), (12, 10, 9)), ((3, -1, 2), (11, 12, 8)))
    )
    theirs = DistanceMetrics(verbose=False)
    theirs.set_input(ref=reference, pred=prediction, spacing=spacing)
    pair = paired(prediction, reference, spacing)
    assert dice(pair) == pytest.approx(theirs.dsc(), abs=0.02)
    ours = hd95_surface_weighted(pair)
    assert ours == pytest.approx(theirs.hd(95), abs=np.linalg.norm(spacing))
