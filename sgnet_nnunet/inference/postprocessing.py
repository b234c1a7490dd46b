"""From logits to the files that nnU-Net writes: resampling, segmentation, masks and probabilities.

Logits are resampled to the image's grid in blocks, and only where a voxel may become foreground.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import atomic_path, make_folder, write_text
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import DEFAULT_THRESHOLD, OperatingPoint, apply_operating_point
from sgnet_nnunet.inference.plan import Labels, ModelDescription, Plan
from sgnet_nnunet.inference.preprocessing import Box, Weights, grid_weights, resample
from sgnet_nnunet.nifti import reader_class

BLOCK = 32
"""Length of a block of the image in voxels."""

MARGIN = 1e-3
"""In logits: voxels this close to an operating point's threshold count as foreground until resampled."""


def segment(
    logits: NDArray[np.float32],
    properties: dict[str, Any],
    plan: Plan,
    *,
    point: OperatingPoint | None = None,
    scene: Scene | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a case's mask.

    Args:
        logits: Shape (heads, z, y, x) on the network's grid.
        properties: Those of the preprocessed case.
        plan: The model's.
        point: Where to cut; None for nnU-Net's own segmentation.
        scene: The preprocessed image, which a point's rejector needs.

    Returns:
        Shape (z, y, x) in the order of axes that the reader gave.
    """
    weights = grid_weights(logits.shape[1:], properties["shape_after_cropping_and_before_resampling"])
    boxes = list(_active(_may_be_foreground(logits, plan.labels, point), weights))
    mask = np.zeros(properties["shape_before_cropping"], dtype=plan.labels.mask_type)
    cropped = mask[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
    if point is None:
        for box in boxes:
            scores = _resampled(logits, weights, box)
            cropped[box] = classes_of(
                _probabilities(scores, plan.labels) if plan.labels.has_regions else scores, plan.labels
            )
    elif boxes:
        hull = tuple(
            slice(min(part.start for part in parts), max(part.stop for part in parts))
            for parts in zip(*boxes, strict=True)
        )
        probabilities = _background(plan.labels, cropped[hull].shape)
        for box in boxes:
            inside = tuple(
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(box, hull, strict=True)
            )
            probabilities[(slice(None), *inside)] = _probabilities(
                _resampled(logits, weights, box), plan.labels
            )
        spacing = tuple(properties["spacing"][axis] for axis in plan.transpose_forward)
        scene = scene and scene.of_crop([part.start for part in hull])
        cropped[hull] = apply_operating_point(probabilities, point, plan.labels, spacing, scene=scene)
    return mask.transpose(plan.transpose_backward)


def probabilities_on_image(
    logits: NDArray[np.float32], properties: dict[str, Any], plan: Plan
) -> NDArray[np.float32]:
    """Return a case's probabilities on the image's whole grid, as nnU-Net saves them.

    The arguments are those of `segment`; shape (heads, z, y, x) in the order of axes that the reader gave.
    """
    shape = properties["shape_after_cropping_and_before_resampling"]
    weights = grid_weights(logits.shape[1:], shape)
    whole = _background(plan.labels, properties["shape_before_cropping"])
    box = tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])
    everywhere = tuple(slice(0, length) for length in shape)
    whole[(slice(None), *box)] = _probabilities(_resampled(logits, weights, everywhere), plan.labels)
    return whole.transpose(0, *(axis + 1 for axis in plan.transpose_backward))


def _may_be_foreground(
    logits: NDArray[np.float32], labels: Labels, point: OperatingPoint | None
) -> NDArray[np.bool_]:
    """Return where the network's own voxels are foreground, or so near that rounding may make them so."""
    cut = 0.0 if point is None else log(point.threshold / (1 - point.threshold)) - MARGIN
    found = np.zeros(logits.shape[1:], dtype=np.bool_)
    for index, plane in enumerate(logits.swapaxes(0, 1)):
        if labels.has_regions:
            score = plane.max(axis=0)
        else:
            # Of two heads one is foreground, and needs no slow sum of exponentials.
            combine = np.maximum if point is None or labels.heads == 2 else np.logaddexp  # noqa: PLR2004
            score = combine.reduce(plane[1:], axis=0) - plane[0]
        found[index] = score > cut
    return found


def _active(foreground: NDArray[np.bool_], weights: Weights) -> Iterator[Box]:
    """Yield the blocks of the output that are interpolated from any voxel of foreground."""
    axes = [
        [
            (
                slice(start, stop := min(start + BLOCK, len(axis.low))),
                slice(axis.low[start], axis.high[stop - 1] + 1),
            )
            for start in range(0, len(axis.low), BLOCK)
        ]
        for axis in weights
    ]
    for block in product(*axes):
        box, source = zip(*block, strict=True)
        if foreground[source].any():
            yield box


def _resampled(logits: NDArray[np.float32], weights: Weights, box: Box) -> NDArray[np.float32]:
    of_box = tuple(axis.part(part) for axis, part in zip(weights, box, strict=True))
    return np.stack([resample(head, of_box) for head in logits])


def _background(labels: Labels, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the probabilities of an image that is all background."""
    probabilities = np.zeros((labels.heads, *shape), dtype=np.float32)
    if not labels.has_regions:
        probabilities[0] = 1
    return probabilities


def _probabilities(logits: NDArray[np.float32], labels: Labels) -> NDArray[np.float32]:
    """Return the sigmoid of each region's logits, or the softmax of the labels'; may overwrite them."""
    if labels.has_regions:
        # exp of a negative number only, which does not overflow.
        small = np.exp(-np.abs(logits))
        return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float32)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def classes_of(scores: NDArray[np.floating], labels: Labels) -> NDArray[np.uint16]:
    """Return the value of each voxel: the likeliest label, or the last region above one half.

    The scores are probabilities, shape (heads, z, y, x); without regions logits give the same.
    """
    classes = np.zeros(scores.shape[1:], dtype=np.uint16)
    if labels.has_regions:
        for region, value in zip(scores, labels.regions_class_order, strict=True):
            classes[region > DEFAULT_THRESHOLD] = value
        return classes
    best = scores[0].copy()
    for label in range(1, labels.heads):
        classes[scores[label] > best] = label
        np.maximum(best, scores[label], out=best)
    return classes


def write_mask(path: Path, mask: NDArray[np.generic], properties: dict[str, Any], *, reader: str) -> None:
    """Write a mask, shape (z, y, x), by nnU-Net's class of this name, with the properties that it read.

    Raises:
        InputFileError: If the file cannot be written.
    """
    with _writing(path) as partial:
        reader_class(reader)().write_seg(mask, str(partial), properties)


def write_probabilities(
    folder: Path, name: str, probabilities: NDArray[np.float32], properties: dict[str, Any]
) -> None:
    """Write the `.npz` and `.pkl` that nnU-Net's ensembles read.

    Raises:
        InputFileError: If a file cannot be written.
    """
    with _writing(folder / f"{name}.npz") as partial:
        np.savez_compressed(partial, probabilities=probabilities)
    with _writing(folder / f"{name}.pkl") as partial:
        partial.write_bytes(pickle.dumps(properties))


MODEL_FILES = ("predict_from_raw_data_args.json", "dataset.json", "plans.json")


def write_model_files(folder: Path, model: ModelDescription, arguments: dict[str, Any]) -> None:
    """Write the three files that `nnUNetv2_predict` leaves next to its masks.

    The arguments are those of nnU-Net's `predict_from_files`.

    Raises:
        InputFileError: If the folder cannot be made.
    """
    make_folder(folder)
    contents = (dict(sorted(arguments.items())), model.dataset, model.plans)
    for name, content in zip(MODEL_FILES, contents, strict=True):
        write_text(folder / name, json.dumps(content, indent=4))


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as partial:
            yield partial
    except OSError as error:
        raise InputFileError(
            path,
            f"cannot be written ({error.strerror or error})",
            "free disk space or name another -o, and go on with --continue_prediction",
        ) from error
