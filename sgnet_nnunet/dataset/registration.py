"""Rigid registration of FLAIR to T1ce by Mattes mutual information (SimpleITK).

SimpleITK images cannot hold a sheared grid, and thick slices make poor metrics. Both images are
therefore first brought, through their affines, onto one isotropic grid along the world axes; only the
metric sees these copies. The transform that is found maps world to world, and the caller
resamples FLAIR once, from its native grid.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its users' name for it)
from numpy.typing import NDArray

from sgnet_nnunet.dataset.resampling import field_of_view, resample_image
from sgnet_nnunet.nifti import Grid, Volume

METRIC_SPACING = 1.5
"""In mm: near the in-plane resolution of clinical scans; the optimiser interpolates below it."""

HISTOGRAM_BINS = 50
"""Mattes et al., IEEE TMI 2003, and SimpleITK's own examples."""

SHRINK_FACTORS = (4, 2, 1)
SMOOTHING_SIGMAS = (3.0, 1.5, 0.0)
"""In mm, for each shrink factor."""

SAMPLED_FRACTIONS = (1.0, 0.5, 0.1)
"""Share of the voxels that the metric samples, for each shrink factor: some 10^5 at the finest."""

SEED = 20260101
"""Of the sampled voxels, so that a conversion can be repeated bit for bit."""

LARGEST_DISPLACEMENT = 30.0
"""In mm. Images of one visit share the head coil; a centre that moves further is a failed optimisation."""

SMALLEST_OVERLAP = 0.7
"""Share of the common field of view that has to stay common: the metric is unreliable on few voxels."""

SMALLEST_GAIN = 5e-3
"""In nats, a hundredth of what aligned brains share; interpolation alone can raise it by less than this."""

UNIMPROVED = "the affines' alignment could not be improved"
"""Note of a registration that did not fail, but was of no use."""

Pair = Sequence[tuple[sitk.Image, sitk.Image]]
"""Image and field of view of T1ce, and of FLAIR, on the metric's grid."""


@dataclass(frozen=True)
class RigidTransform:
    """The rigid map from T1ce to FLAIR.

    Attributes:
        world_map: 4x4 rigid matrix from T1ce's world to FLAIR's world, in mm.
        before: Mutual information of both images in nats, as the affines place them; None if their
            fields of view share too few voxels to compute it. `after` is that under `world_map`.
        note: Why the images stay as the affines place them; empty if they were moved.
    """

    world_map: NDArray[np.float64]
    before: float | None
    after: float | None
    note: str = ""


def register_rigid(fixed: Volume, moving: Volume) -> RigidTransform:
    """Find the rigid transform that aligns T1ce (`fixed`) and FLAIR of one head, on grids that overlap.

    Repeatable bit for bit on one machine. It is the identity, with a note, where the optimiser fails or
    does not raise the mutual information.
    """
    grid = _metric_grid(fixed.grid, METRIC_SPACING)
    pair, fields = _pair(fixed, moving, grid)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(grid.bounds().mean(axis=0).tolist())
    before = None
    try:
        with _one_thread():
            before = _mutual_information(pair, transform)
            transform = _optimise(pair, transform)
            after = _mutual_information(pair, transform)
        moved = field_of_view(moving, grid, world_map=_matrix(transform))
        kept = np.count_nonzero(fields[0] & moved) / np.count_nonzero(fields[0] & fields[1])
        problem = _implausible(transform, gain=after - before, kept=kept)
    except RuntimeError as error:
        problem = str(error).strip().splitlines()[-1]
    if problem:
        return RigidTransform(np.eye(4), before, before, f"not registered: {problem}")
    return RigidTransform(_matrix(transform), before, after)


PROBE_SPACING = 4.0
"""In mm, of the images that `probe` compares."""

PROBE_MM, PROBE_DEGREES = 2.5, 2.5
"""The small moves that `probe` tries, along and about each axis."""


def probe(fixed: Volume, moving: Volume) -> tuple[float, float] | None:
    """Return the similarity of T1ce (`fixed`) and FLAIR, and the largest after a small move, or None.

    The moves are `PROBE_MM` along and `PROBE_DEGREES` about each axis of the world, both ways. The mutual
    information, in nats, is that of images thinned out to `PROBE_SPACING`; None if it cannot be computed.
    """
    pair, _ = _pair(_thinned(fixed), _thinned(moving), _metric_grid(fixed.grid, PROBE_SPACING))
    found = []
    try:
        with _one_thread():
            for move in np.vstack([np.zeros(6), np.eye(6), -np.eye(6)]):
                transform = sitk.Euler3DTransform()
                transform.SetCenter(fixed.grid.bounds().mean(axis=0).tolist())
                transform.SetTranslation((PROBE_MM * move[:3]).tolist())
                transform.SetRotation(*np.deg2rad(PROBE_DEGREES * move[3:]).tolist())
                found.append(_mutual_information(pair, transform))
    except RuntimeError:
        return None
    return found[0], max(found[1:])


def _thinned(volume: Volume) -> Volume:
    """Return the means of blocks of up to `PROBE_SPACING`."""
    block = [max(1, int(PROBE_SPACING / step)) for step in volume.grid.spacing]
    shape = [n // size for n, size in zip(volume.data.shape, block, strict=True)]
    kept = tuple(slice(n * size) for n, size in zip(shape, block, strict=True))
    sides = [each for pair in zip(shape, block, strict=True) for each in pair]
    means = volume.data[kept].reshape(sides).mean(axis=(1, 3, 5), dtype=np.float32)
    centre = np.eye(4)
    centre[:3, 3] = (np.array(block) - 1) / 2
    return Volume(means, volume.affine @ centre @ np.diag([*block, 1.0]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep ITK to one thread: accessions run side by side, and only one thread sums in one order.

    The metric ignores `ImageRegistrationMethod.SetNumberOfThreads`.
    """
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def _pair(fixed: Volume, moving: Volume, grid: Grid) -> tuple[Pair, list[NDArray[np.bool_]]]:
    """Return both images on the metric's grid, and their fields of view."""
    fields = [field_of_view(volume, grid) for volume in (fixed, moving)]
    pair = []
    for volume, field in zip((fixed, moving), fields, strict=True):
        image = Volume(volume.data.astype(np.float32, copy=False), volume.affine)
        pair.append((_to_sitk(resample_image(image, grid), grid), _to_sitk(field.astype(np.uint8), grid)))
    return pair, fields


def _metric_grid(fixed: Grid, spacing: float) -> Grid:
    """Return the isotropic grid along the world axes that covers a grid."""
    low, high = fixed.bounds()
    x, y, z = (max(4 * max(SHRINK_FACTORS), int(np.ceil(extent / spacing))) for extent in high - low)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low + spacing / 2
    return Grid((x, y, z), affine)


def _to_sitk(data: NDArray[Any], grid: Grid) -> sitk.Image:
    """Return a SimpleITK image whose physical space is the grid's world, RAS+ instead of ITK's LPS+.

    The metric is independent of handedness, and the transform refers to the world of the affines.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.affine[:3, 3].tolist())
    return image


def _metric(pair: Pair) -> sitk.ImageRegistrationMethod:
    """Return the metric; voxels outside either field of view are left out, not counted as background."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(pair[0][1])
    method.SetMetricMovingMask(pair[1][1])
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _mutual_information(pair: Pair, transform: sitk.Euler3DTransform) -> float:
    """Return the mutual information in nats over every voxel of both fields of view."""
    metric = _metric(pair)
    metric.SetInitialTransform(transform)
    return -float(metric.MetricEvaluate(pair[0][0], pair[1][0]))


def _optimise(pair: Pair, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Return the Euler3DTransform that the optimiser reaches from `start`."""
    transform = sitk.Euler3DTransform(start)
    method = _metric(pair)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(SAMPLED_FRACTIONS, SEED)
    method.SetShrinkFactorsPerLevel(SHRINK_FACTORS)
    method.SetSmoothingSigmasPerLevel(SMOOTHING_SIGMAS)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.01, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(pair[0][0], pair[1][0])
    return transform


def _implausible(transform: sitk.Euler3DTransform, *, gain: float, kept: float) -> str:
    """Return why a transform is implausible; empty if it is not."""
    displacement = float(np.linalg.norm(transform.GetTranslation()))
    if displacement > LARGEST_DISPLACEMENT:
        return f"the optimiser moved the centre by {displacement:.0f} mm"
    if kept < SMALLEST_OVERLAP:
        return f"the optimiser left {kept:.0%} of the common field of view"
    if gain < SMALLEST_GAIN:
        return UNIMPROVED
    return ""


def _matrix(transform: sitk.Euler3DTransform) -> NDArray[np.float64]:
    """Return a SimpleITK rigid transform as a 4x4 matrix."""
    matrix, center = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = center + transform.GetTranslation() - matrix[:3, :3] @ center
    return matrix
