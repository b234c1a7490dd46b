"""Measurements of drawn lesions, against brute force and known shapes, and the files that keep them."""

import csv
import itertools
import json

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import Grid, Volume
from sgnet_nnunet.patient.lesion_table import (
    axial_axis,
    axial_diameters,
    diameter_3d,
    measure_lesions,
    read_lesions_json,
    write_lesions_csv,
    write_lesions_json,
)


def rotation(rng, degrees):
    """Return a turn about a drawn axis, at most so far."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(0.3, 1) * degrees)
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def drawn_grid(rng, shape, *, degrees=20):
    """Return a grid with drawn spacing, turned a little."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng, degrees) @ np.diag(rng.uniform(0.5, 3, 3))
    affine[:3, 3] = rng.normal(0, 50, 3)
    return Grid(shape, affine)


def blob(rng, shape):
    """Return the voxels of a drawn shape that need not be convex, or one piece on each slice."""
    grid = np.indices(shape).reshape(3, -1).T
    inside = np.zeros(len(grid), dtype=bool)
    for _ in range(3):
        centre, axes = rng.uniform(0.3, 0.7, 3) * shape, rng.uniform(1, 4, 3)
        inside |= (((grid - centre) / axes) ** 2).sum(axis=1) < 1
    inside[rng.integers(len(grid))] = True
    return grid[inside]


def sides(voxels, grid, axes):
    """Return the centres of the sides of voxels along some axes of the array, in world mm."""
    steps = [sign * 0.5 * np.eye(3)[axis] for axis in axes for sign in (1, -1)]
    return grid.world(np.concatenate([voxels + step for step in steps]))


def longest_chord(points, across):
    """Return the longest chord of the convex hull of points in a plane along a direction, by sampling."""
    hull = points[ConvexHull(points).vertices]
    along = np.array([-across[1], across[0]])
    best = 0.0
    for place in np.linspace((hull @ along).min(), (hull @ along).max(), 801):
        crossings = []
        for one, other in zip(hull, np.roll(hull, -1, axis=0), strict=True):
            (a, b) = one @ along - place, other @ along - place
            if a * b < 0:
                crossings.append((one + (other - one) * a / (a - b)) @ across)
        best = max(best, max(crossings) - min(crossings)) if crossings else best
    return best


@pytest.mark.parametrize("seed", range(8))
def test_diameters_are_those_of_all_pairs_of_points(seed):
    rng = np.random.default_rng(seed)
    shape = (12, 11, 9)
    grid, voxels = drawn_grid(rng, shape), blob(rng, shape)
    assert diameter_3d(voxels, grid) == pytest.approx(pdist(sides(voxels, grid, (0, 1, 2))).max())
    longest, perpendicular = axial_diameters(voxels, grid)
    slices = {k: sides(voxels[voxels[:, 2] == k], grid, (0, 1)) for k in np.unique(voxels[:, 2])}
    by_slice = {k: pdist(points).max() for k, points in slices.items()}
    assert longest == pytest.approx(max(by_slice.values()))
    assert perpendicular <= longest + 1e-6
    chords = []
    for points in (slices[k] for k in slices if by_slice[k] > longest - 1e-6):
        flat = (points - points[0]) @ np.linalg.svd(points - points.mean(axis=0))[2][:2].T
        pairs = np.array([*itertools.combinations(range(len(flat)), 2)])
        for i, j in pairs[pdist(flat) > longest - 1e-6]:
            x, y = (flat[j] - flat[i]) / longest
            chords.append(longest_chord(flat, np.array([-y, x])))
    assert perpendicular == pytest.approx(max(chords), rel=5e-3)


def test_one_voxel_is_as_long_as_its_sides():
    grid = Grid((5, 5, 5), np.diag([2.0, 1.0, 3.0, 1.0]))
    voxels = np.array([[2, 2, 2]])
    assert axial_diameters(voxels, grid) == pytest.approx((2.0, 1.0))
    assert diameter_3d(voxels, grid) == pytest.approx(3.0)


def test_ellipse_has_its_axes_as_diameters():
    grid = Grid((60, 60, 3), np.eye(4))
    places = np.indices(grid.shape).reshape(3, -1).T
    inside = ((places[:, :2] - 30) / [20, 12]) ** 2
    longest, perpendicular = axial_diameters(places[(inside.sum(axis=1) <= 1) & (places[:, 2] == 1)], grid)
    assert longest == pytest.approx(41, abs=0.5)
    assert perpendicular == pytest.approx(25, abs=0.5)


@pytest.mark.parametrize(("axes", "expected"), [((0, 1, 2), 2), ((2, 0, 1), 0), ((0, 2, 1), 1)])
def test_slices_closest_to_axial_are_found(axes, expected):
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.random.default_rng(1), 30) @ np.eye(3)[:, axes]
    assert axial_axis(Grid((4, 4, 4), affine)) == expected == axes.index(2)


@pytest.fixture
def lesions():
    """A brain, its lesions, their probability and which are kept."""
    brain = np.ones((30, 32, 28), dtype=np.float32)
    mask = np.zeros(brain.shape, dtype=bool)
    mask[4:8, 4:8, 4:8] = mask[20:22, 20:22, 20:22] = mask[25, 5, 5] = mask[5, 26:30, 20:22] = True
    probability = np.where(mask, 0.8, 0.1)
    probability[20:22, 20:22, 20:22] = 0.6
    probability[4, 4, 4] = 1.0
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    found = find_lesions(mask, spacing=(2.0, 2.0, 2.0))
    return found, probability, Volume(brain, affine)


def measured(lesions, kept=None, **options):
    found, probability, brain = lesions
    kept = np.ones(found.number, dtype=bool) if kept is None else kept
    return measure_lesions(found, kept, probability=probability, brain=brain, **options)


def test_lesions_are_numbered_by_size_with_the_removed_ones_last(lesions):
    found = lesions[0]
    removed = int(np.argmax(found.voxels == 64))
    lesion_map = measured(lesions, np.arange(found.number) != removed)
    assert [record.volume_mm3 for record in lesion_map.records] == [64, 64, 8, 512]
    assert [record.number for record in lesion_map.records] == [1, 2, 3, 4]
    assert [record.kept for record in lesion_map.records] == [True, True, True, False]
    assert lesion_map.labels.dtype == np.uint16
    assert np.unique(lesion_map.labels).tolist() == [0, 1, 2, 3]
    for record in lesion_map.kept:
        places = np.argwhere(lesion_map.labels == record.number)
        np.testing.assert_allclose(places.mean(axis=0), record.centroid_voxel)
        np.testing.assert_allclose(lesion_map.grid.world(places.mean(axis=0)[None])[0], record.centroid_mm)
    assert not lesion_map.labels[4:8, 4:8, 4:8].any()


def test_probabilities_confidence_and_gates_are_those_of_the_lesions_voxels(lesions):
    lesion_map = measured(
        lesions,
        confidence_of=lambda mean: mean / 2,
        gates_at=lambda voxels: {"1/4": (voxels[:, 0] < 6).astype(float), "1/2": np.ones(len(voxels))},
    )
    largest = lesion_map.records[0]
    assert largest.mean_probability == pytest.approx((63 * 0.8 + 1) / 64)
    assert largest.max_probability == 1
    assert largest.confidence == pytest.approx(largest.mean_probability / 2)
    assert largest.gate_shares == {"1/4": 0.5, "1/2": 1.0}


def test_no_lesions_are_no_records(lesions):
    _, probability, brain = lesions
    found = find_lesions(np.zeros(brain.data.shape, dtype=bool), spacing=(2.0, 2.0, 2.0))
    lesion_map = measure_lesions(found, np.zeros(0, dtype=bool), probability=probability, brain=brain)
    assert lesion_map.records == ()
    assert not lesion_map.labels.any()


def test_json_gives_the_records_back(lesions, tmp_path):
    records = measured(lesions, gates_at=lambda voxels: {"1/2": np.ones(len(voxels))}).records
    write_lesions_json(tmp_path / "lesions.json", records)
    assert read_lesions_json(tmp_path / "lesions.json") == records


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is other, version 1, not sgnet lesions, version 1; run sgnet segment again"),
        ({"version": 9}, "version 9"),
        ({"lesions": [{}]}, r"\$\.lesions\[0\]: object missing required field"),
    ],
)
def test_json_that_is_something_else_is_refused(lesions, tmp_path, changes, message):
    path = tmp_path / "lesions.json"
    write_lesions_json(path, measured(lesions).records)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputFileError, match=message):
        read_lesions_json(path)


def test_csv_has_a_row_for_each_lesion_and_a_column_for_each_gate(lesions, tmp_path):
    records = measured(lesions, gates_at=lambda voxels: {"1/2": np.ones(len(voxels))}).records
    write_lesions_csv(tmp_path / "lesions.csv", records)
    with (tmp_path / "lesions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        assert float(row["volume_mm3"]) == pytest.approx(record.volume_mm3)
        assert [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"] == pytest.approx(record.centroid_mm)
        assert [float(row[f"centroid_{axis}"]) for axis in "ijk"] == pytest.approx(record.centroid_voxel)
        assert (row["gate_share_1/2"], row["confidence"], row["kept"]) == ("1.0", "", "true")
