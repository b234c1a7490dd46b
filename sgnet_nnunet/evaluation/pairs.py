"""Pairs of a predicted mask and its reference, and what the metrics of a pair have in common."""

from collections.abc import Callable, Hashable
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.nifti import Grid, Volume, read_labels, values_in

Result = TypeVar("Result")


class MaskPair:
    """A predicted mask and its reference on one grid.

    Only the bounding box of the two masks' voxels is kept, its axes in reverse if that is how the
    masks lie in memory; the grid's are too. Metrics share their intermediate results through
    `once_per_pair`.

    Attributes:
        grid: The grid of the whole image.
        box: Bounding box of the voxels of either mask; empty if both masks are.
        prediction: Predicted mask inside the box, C-contiguous, its axes those of the grid.
        reference: Reference mask inside the box.
        results: What `once_per_pair` remembers.
    """

    def __init__(
        self, prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, affine: NDArray[np.float64]
    ) -> None:
        """Pair two masks of one shape (x, y, z); `affine` is the 4x4 matrix from voxel index to world mm.

        Raises:
            ValueError: If the shapes differ, a mask is not boolean or not 3D, or the affine is unusable.
        """
        if prediction.shape != reference.shape:
            shapes = f"{prediction.shape} and {reference.shape}"
            raise ValueError(f"prediction and reference must have one shape; got {shapes}")
        for name, mask in (("prediction", prediction), ("reference", reference)):
            if mask.dtype != np.bool_:
                problem = f"the {name} must be boolean; got {mask.dtype}"
                raise ValueError(f"{problem}: compare it with a label first")
        affine = np.asarray(affine, dtype=np.float64)
        if prediction.flags.f_contiguous and reference.flags.f_contiguous:
            # As nibabel reads them; the columns of the affine are permuted with the axes.
            prediction, reference = prediction.T, reference.T
            affine = affine[:, [2, 1, 0, 3]] if affine.shape == (4, 4) else affine
        self.grid = Grid(prediction.shape, affine)
        self.box = bounding_box(prediction | reference)
        self.prediction = np.ascontiguousarray(prediction[self.box])
        self.reference = np.ascontiguousarray(reference[self.box])
        self.results: dict[Hashable, Any] = {}

    @cached_property
    def predicted_voxels(self) -> int:
        """Voxels of the predicted mask."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def reference_voxels(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.reference))

    @cached_property
    def common_voxels(self) -> int:
        """Voxels that both masks have."""
        return int(np.count_nonzero(self.prediction & self.reference))

    @property
    def empty(self) -> Literal["prediction", "reference", "both"] | None:
        """Which mask has no voxel."""
        if not self.predicted_voxels:
            return "prediction" if self.reference_voxels else "both"
        return None if self.reference_voxels else "reference"


def once_per_pair(function: Callable[[MaskPair], Result]) -> Callable[[MaskPair], Result]:
    """Make a function of a pair remember its result with the pair."""

    @wraps(function)
    def remembered(pair: MaskPair) -> Result:
        if remembered not in pair.results:
            pair.results[remembered] = function(pair)
        result: Result = pair.results[remembered]
        return result

    return remembered


def read_pairs(case: PredictedCase, results: Results, *, reference: Volume | None = None) -> list[MaskPair]:
    """Return the pair of masks of each target, in the order of `results.targets`.

    A missing prediction is an empty mask. Voxels where the reference has `results.ignored_value`
    belong to neither mask. A `reference` that has been read already is not read again.

    Raises:
        InputFileError: If a file cannot be read or is no mask, has a value that the data set has
            not, or the prediction does not lie on the reference's grid.
    """
    known = results.known_values
    reference = reference or read_label_map(case.reference, known=known)
    predicted = np.zeros_like(reference.data)
    if case.prediction is not None:
        volume = read_label_map(case.prediction, known=known)
        check_same_grid(case.prediction, volume, case.reference, reference)
        predicted = volume.data
    ignored = None if results.ignored_value is None else reference.data == results.ignored_value
    pairs = []
    for target in results.targets:
        masks = [mask_of(target, data, known=known) for data in (predicted, reference.data)]
        if ignored is not None:
            masks = [mask & ~ignored for mask in masks]
        pairs.append(MaskPair(*masks, affine=reference.affine))
    return pairs


def read_label_map(path: Path, *, known: frozenset[int]) -> Volume:
    """Read a mask of integers.

    Raises:
        InputFileError: If it cannot be read, is no mask, or has a value that is not `known`.
    """
    volume = read_labels(path)
    check_known(path, volume.data, known=known)
    return volume


def check_known(path: Path, labels: NDArray[Any], *, known: frozenset[int]) -> None:
    """Raise an InputFileError if a label map, the content of a file, has a value that is not `known`."""
    if unknown := sorted(set(values_in(labels).tolist()) - known):
        problem = (
            f"has the value {unknown[0]:g}, which is no label of the data set (labels: {_listed(known)})"
        )
        raise InputFileError(path, problem, "fix the mask, or name the dataset.json that has its labels")


def mask_of(target: Target, values: NDArray[Any], *, known: frozenset[int]) -> NDArray[np.bool_]:
    """Return the voxels of a target in a label map whose values are `known`."""
    if len(target.values) == 1:
        return np.asarray(values == target.values[0])
    if set(target.values) == known - {0}:
        return np.asarray(values != 0)
    return np.asarray(np.logical_or.reduce([values == value for value in target.values]))


def check_same_grid(path: Path, volume: Volume, reference_path: Path, reference: Volume) -> None:
    """Check that a prediction or an image lies on its reference's grid.

    Raises:
        InputFileError: If the shapes differ, or the same voxels lie in different places.
    """
    remedy = f"resample it onto the grid of {reference_path}"
    if volume.data.shape != reference.data.shape:
        own, other = (" x ".join(map(str, each.data.shape)) for each in (volume, reference))
        raise InputFileError(path, f"has {own} voxels, its reference {other}", remedy)
    if not volume.grid.same_place_as(reference.grid):
        shift = volume.grid.shift_from(reference.grid)
        raise InputFileError(path, f"its affine puts it up to {shift:.3g} mm off its reference", remedy)


def _listed(known: frozenset[int]) -> str:
    values = sorted(known)
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:  # noqa: PLR2004
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
