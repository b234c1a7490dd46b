"""Our figures against other tools' on random masks, anisotropic voxels included."""

# ruff: noqa: PLC0415 - the other tools, VTK among them, take seconds to import

import csv
import subprocess
import sys
from importlib.util import find_spec
from math import nan
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.evaluation.challenges import (
    brats2026_large_dice,
    brats2026_large_hd95,
    brats2026_large_nsd,
    brats2026_small_f1,
    match_one_to_one,
)
from sgnet_nnunet.evaluation.lesion_metrics import lesions_of
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
    import torch

    return torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]


@pytest.mark.slow
@random_pairs
@given(cases())
def test_directed_hd95_is_monais(case):
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    prediction, reference, spacing = case
    theirs = compute_hausdorff_distance(
        *one_hot(prediction, reference), include_background=True, percentile=95, spacing=spacing
    )
    assert hd95_directed(paired(*case)) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.mark.slow
@random_pairs
@given(cases(), st.sampled_from([1.0, 2.0]))
def test_surface_dice_is_monais(case, tolerance):
    from monai.metrics.surface_dice import compute_surface_dice

    prediction, reference, spacing = case
    theirs = compute_surface_dice(
        *one_hot(prediction, reference), [tolerance], include_background=True, spacing=spacing
    )
    assert surface_dice(paired(*case), tolerance_mm=tolerance) == pytest.approx(float(theirs), abs=TOLERANCE)


@pytest.mark.slow
@random_pairs
@given(cases())
def test_average_distance_is_monais(case):
    from monai.metrics.surface_distance import compute_average_surface_distance

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


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 3.0)])
def test_surface_weighted_hd95_is_that_of_meshes_within_a_voxel(spacing):
    from meshmetrics import DistanceMetrics

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


BRATS2026 = {
    "small_instance_f1_et": brats2026_small_f1,
    "lesionwise_dsc_mean_et": brats2026_large_dice,
    "lesionwise_nsd_mean_et": brats2026_large_nsd,
    "lesionwise_hd95_mean_et": brats2026_large_hd95,
}
"""Columns of brats-evaluation, and what should be the same."""

SAME_FIRST_AND_LAST = [(1, 1, 1), (1, 2, 1), (0.9, 3, 0.9), (2, 2, 2), (0.5, 0.5, 0.5), (1, 0.5, 1)]
"""Spacings in mm; brats-evaluation swaps the first with the last."""


PAIRS = 300


def has_ties(match):
    """Return whether a lesion has the same Dice with two others: either may be its match."""
    return any(
        len(set(zip(lesions.tolist(), match.dice.tolist(), strict=True))) < match.dice.size
        for lesions in (match.actual, match.predicted)
    )


def many_lesions(rng, spacing, shape=(24, 20, 16)):
    """Return two masks of balls and boxes: found, missed, false, merged, touching or none."""
    points = np.stack(np.indices(shape), axis=-1)
    masks = np.zeros((2, *shape), dtype=bool)
    for _ in range(rng.integers(0, 9)):
        centre, radius = rng.integers(1, np.subtract(shape, 1)), rng.uniform(0.6, 4)
        norm = rng.choice([2, np.inf])
        for which in rng.choice([(0, 1), (0, 1), (0, 0), (1, 1)]):
            masks[which] |= np.linalg.norm((points - centre) * spacing, ord=norm, axis=-1) <= radius
            centre = centre + rng.integers(-2, 3, 3) * rng.integers(0, 2)
            radius *= rng.uniform(0.6, 1.3)
    masks |= rng.random(masks.shape) < rng.choice([0, 0.01, 0.04])
    return masks & (rng.random(2) > 0.06)[:, None, None, None]


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("brats_evaluation") is None,
    reason="brats-evaluation is not installed; its licence, AGPL-3, keeps it out of the requirements",
)
def test_brats2026_is_brats_evaluations(tmp_path):
    rng = np.random.default_rng(0)
    expected = []
    while (i := len(expected)) < PAIRS:
        spacing = SAME_FIRST_AND_LAST[rng.integers(len(SAME_FIRST_AND_LAST))]
        masks = [np.asfortranarray(mask) for mask in many_lesions(rng, spacing)]
        pair = paired(*masks, spacing)
        if has_ties(lesions_of(pair)):
            continue
        expected.append([metric(pair) for metric in BRATS2026.values()])
        for folder, mask in zip(("predicted", "reference"), masks, strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = nib.Nifti1Image(3 * mask.astype(np.uint8), np.diag([*spacing, 1.0]))  # label 3 is `et`
            nib.save(image, tmp_path / folder / f"BraTS-MET-{i:05d}-000.nii.gz")
    summary, table = tmp_path / "summary.json", tmp_path / "table.csv"
    places = ("--pred_path", tmp_path / "predicted", "--ref_path", tmp_path / "reference")
    limits = ("--vol_threshold", "20.0", "--overlap_threshold", "0.1")
    for script, *options in (
        ("brats-evaluate", "--config", "mets", *places, "--summary_json", summary),
        ("brats-parse-metrics", "mets", "--json_path", summary, "--output_csv_path", table, *limits),
    ):
        subprocess.run([Path(sys.executable).with_name(script), *options], check=True, capture_output=True)
    with table.open(newline="") as file:
        rows = {row["subject_id"]: row for row in csv.DictReader(file)}
    found = [
        [float(rows[f"BraTS-MET-{i:05d}-000.nii.gz"][column] or nan) for column in BRATS2026]
        for i in range(PAIRS)
    ]
    np.testing.assert_allclose(expected, found, atol=TOLERANCE)
    present = ~np.isnan(found)
    assert present.any(axis=0).all()
    assert not present.all(axis=0).any()
