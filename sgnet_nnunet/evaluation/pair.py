"""A predicted mask beside its reference, and what the metrics of the two have in common."""

from collections.abc import Callable, Hashable
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.grid import Grid

Result = TypeVar("Result")
Box = tuple[slice, slice, slice]


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
        """Pair two masks.

        Args:
            prediction: Predicted mask, shape (x, y, z).
            reference: Reference mask of the same shape.
            affine: 4x4 matrix from voxel index to world millimetres, of both masks.

        Raises:
            ValueError: If the shapes differ, a mask is not boolean or not 3D, or the affine is unusable.
        """
        if prediction.shape != reference.shape:
            shapes = f"{prediction.shape} and {reference.shape}"
            raise ValueError(f"prediction and reference must have one shape; got {shapes}")
        for name, mask in (("prediction", prediction), ("reference", reference)):
            if mask.dtype != np.bool_:
                raise ValueError(
                    f"the {name} must be boolean; got {mask.dtype}: compare it with a label first"
                )
        affine = np.asarray(affine, dtype=np.float64)
        if prediction.flags.f_contiguous and reference.flags.f_contiguous:
            # As nibabel reads them; the affine's columns change places with the axes.
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

    @property
    def origin(self) -> NDArray[np.intp]:
        """Index of the box's first voxel in the whole image, shape (3,)."""
        return np.array([axis.start for axis in self.box])


def once_per_pair(function: Callable[[MaskPair], Result]) -> Callable[[MaskPair], Result]:
    """Make a function of a pair remember its result with the pair."""

    @wraps(function)
    def remembered(pair: MaskPair) -> Result:
        if remembered not in pair.results:
            pair.results[remembered] = function(pair)
        result: Result = pair.results[remembered]
        return result

    return remembered


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that holds every voxel of a mask of shape (x, y, z)."""
    x, y, z = (_extent(np.asarray(mask.any(axis=others))) for others in ((1, 2), (0, 2), (0, 1)))
    return x, y, z


def _extent(line: NDArray[np.bool_]) -> slice:
    hits = np.flatnonzero(line)
    return slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0)
