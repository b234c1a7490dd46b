"""A prediction and its reference from disk, each read once, as a pair of masks for each target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.pair import MaskPair
from sgnet_nnunet.io.read import read_labels, values_in
from sgnet_nnunet.io.volume import Volume
from sgnet_nnunet.results.case import PredictedCase, Results, Target

LARGEST_SHIFT = 0.1
"""Share of a voxel by which two grids may differ anywhere: writers round affines, some by 1e-3 mm."""


def read_pairs(case: PredictedCase, results: Results, *, reference: Volume | None = None) -> list[MaskPair]:
    """Return the pair of masks of each target, in the order of `results.targets`.

    A missing prediction is an empty mask. Voxels where the reference has `results.ignored_value`
    belong to neither mask.

    Args:
        case: The case.
        results: The comparison it belongs to.
        reference: The case's reference if it has been read already.

    Raises:
        InputFileError: If a file cannot be read or is no mask, has a value that the data set has
            not, or the prediction does not lie on the reference's grid.
    """
    known = results.known_values
    reference = reference or read_label_map(case.reference, known=known)
    ignored = None if results.ignored_value is None else reference.data == results.ignored_value
    if case.prediction is None:
        predicted = np.zeros_like(reference.data)
    else:
        volume = read_label_map(case.prediction, known=known)
        _check_same_grid(case.prediction, volume, case.reference, reference)
        predicted = volume.data
    pairs = []
    for target in results.targets:
        masks = [mask_of(target, data, known=known) for data in (predicted, reference.data)]
        if ignored is not None:
            masks = [mask & ~ignored for mask in masks]
        pairs.append(MaskPair(*masks, affine=reference.affine))
    return pairs


def read_label_map(path: Path, *, known: frozenset[int]) -> Volume:
    """Read a mask of integers.

    Args:
        path: The file.
        known: The values that it may have.

    Raises:
        InputFileError: If it cannot be read, is no mask, or has another value.
    """
    volume = read_labels(path)
    if unknown := sorted(set(values_in(volume.data).tolist()) - known):
        raise InputFileError(
            path,
            f"has the value {unknown[0]}, which the data set does not know (it has {_listed(sorted(known))})",
            "mend the mask, or name the dataset.json that has its labels",
        )
    return volume


def mask_of(target: Target, values: NDArray[Any], *, known: frozenset[int]) -> NDArray[np.bool_]:
    """Return the voxels of a target, shape and memory order of the label map.

    Args:
        target: The label or region.
        values: The label map, shape (x, y, z).
        known: Every value that the label map may have.
    """
    if len(target.values) == 1:
        return np.asarray(values == target.values[0])
    if set(target.values) == known - {0}:
        return np.asarray(values != 0)
    return np.asarray(np.logical_or.reduce([values == value for value in target.values]))


def _check_same_grid(path: Path, prediction: Volume, reference_path: Path, reference: Volume) -> None:
    remedy = f"resample it onto the grid of {reference_path}"
    if prediction.data.shape != reference.data.shape:
        shapes = f"{_by(prediction.data.shape)} voxels, its reference {_by(reference.data.shape)}"
        raise InputFileError(path, f"has {shapes}", remedy)
    corners = np.array(np.meshgrid(*([0, length - 1] for length in reference.data.shape))).reshape(3, -1)
    apart = (prediction.affine - reference.affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    shift = float(np.linalg.norm(apart[:3], axis=0).max())
    if shift > LARGEST_SHIFT * min(reference.spacing):
        raise InputFileError(path, f"its affine puts it up to {shift:.3g} mm off its reference", remedy)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _listed(values: Sequence[int]) -> str:
    if len(values) > 2 and values[-1] - values[0] == len(values) - 1:  # noqa: PLR2004
        return f"{values[0]} to {values[-1]}"
    return ", ".join(map(str, values))
