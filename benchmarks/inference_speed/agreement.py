"""Whether the ways agree: among themselves, with nnU-Net's sliding window, and with the reference."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_speed.names import SPARSE, SPARSE_BF16
from inference_speed.picture import draw_difference
from inference_speed.subject import Subject
from inference_speed.ways import (
    DENSE,
    SPARSE_TORCH,
    WHOLE,
    WHOLE_TORCH,
    Logits,
    Way,
    mask_of,
    open_voxels,
    our_ways,
    sliding_window,
    stock_way,
)
from sgnet_nnunet.evaluation.lesion_metrics import FalsePositives, LesionSensitivity
from sgnet_nnunet.evaluation.mask_metrics import Dice, Precision, Recall
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.inference.torch_engines import torch_run

TILES, ONE_TILE = "nnU-Net's tiles", "nnU-Net's one tile"

METRICS = (Dice(), Precision(), Recall(), LesionSensitivity(), FalsePositives())

Mask = NDArray[np.bool_]


def measure_agreement(subject: Subject, *, patients: int, picture: Path) -> dict[str, Any]:
    """Compare the ways' logits and masks on some patients, on the network's grid.

    Args:
        subject: The model and the patients.
        patients: The most that are taken.
        picture: PNG of the patient whose masks differ most from nnU-Net's.
    """
    predictor = subject.predictor()
    engines = our_ways(predictor, (SPARSE, SPARSE_BF16, WHOLE, SPARSE_TORCH, WHOLE_TORCH))
    engines |= {
        DENSE: dense_pass(predictor),
        ONE_TILE: one_tile(subject),
        TILES: stock_way(subject, use_mirroring=False),
    }
    background = predictor.network.geometry.background
    spacing = [float(size) for size in predictor.configuration_manager.spacing]
    rows, drawn = [], -1
    for case in islice(subject.cases, patients):
        image, reference = subject.preprocessed(predictor, case)
        logits = {name: way(image) for name, way in engines.items()}
        masks = {
            name: mask_of(each, background_head=predictor.network.background_head)
            for name, each in logits.items()
        }
        row: dict[str, Any] = {
            "case": case,
            "sparse_is_whole_openvino": bool(np.array_equal(logits[SPARSE], logits[WHOLE])),
            "sparse_is_whole_torch": bool(np.array_equal(logits[SPARSE_TORCH], logits[WHOLE_TORCH])),
            "openvino_to_torch": difference(logits[SPARSE], logits[SPARSE_TORCH], background)
            | masks_differ(masks[SPARSE], masks[SPARSE_TORCH]),
            "torch_to_dense": difference(logits[SPARSE_TORCH], logits[DENSE], background)
            | masks_differ(masks[SPARSE_TORCH], masks[DENSE]),
            "bf16": masks_differ(masks[SPARSE_BF16], masks[SPARSE]) if SPARSE_BF16 in masks else None,
            "one_tile": masks_differ(masks[SPARSE], masks[ONE_TILE]),
            "tiles": masks_differ(masks[SPARSE], masks[TILES]),
            "scores": None
            if reference is None
            else {name: scores(masks[name], reference, spacing) for name in (SPARSE, TILES)},
        }
        rows.append(row)
        if row["tiles"]["voxels"] > drawn:
            drawn = row["tiles"]["voxels"]
            draw_difference(picture, image[0], masks[SPARSE], masks[TILES], name=case, spacing=spacing)
    return {"cases": rows, "patch_size": list(map(int, predictor.configuration_manager.patch_size))}


def dense_pass(predictor: Any) -> Way:  # noqa: ANN401
    """Return one pass of the network in torch, every block of it, over the image padded as our engines do."""
    return padded(torch_run(predictor.network, torch.device("cpu")), predictor.network.geometry.divisor)


def one_tile(subject: Subject) -> Way:
    """Return nnU-Net's sliding window with one tile as large as the padded image: no tile has a border.

    Tiles are then not weighted: the weights of so large a tile's corners have no place in its half
    precision.
    """
    predictor = subject.predictor(use_mirroring=False, use_gaussian=False)
    window = sliding_window(predictor)

    def run(batch: NDArray[np.float32]) -> Logits:
        predictor.configuration_manager.configuration["patch_size"] = list(batch.shape[2:])
        return window(batch[0])[None]

    return padded(run, predictor.network.geometry.divisor)


def padded(run: Way, divisor: int) -> Way:
    """Return a way that pads images with zeros at their ends, and crops the logits.

    nnU-Net would pad at both sides, and so move the image against the grids of the deeper levels.

    Args:
        run: Takes a batch of one image and returns one of logits.
        divisor: Images are padded to multiples of it, in voxels.
    """

    def way(image: NDArray[np.float32]) -> Logits:
        _, z, y, x = image.shape
        batch = np.pad(image, [(0, 0), *((0, -length % divisor) for length in (z, y, x))])[None]
        return run(batch)[0, :, :z, :y, :x]

    return way


def difference(logits: Logits, expected: Logits, background: tuple[float, ...]) -> dict[str, Any]:
    """Return how far logits are from what is expected.

    Returns:
        `largest`, where the finest gates decide alike, and `ties`, the number of voxels where they do not,
        for a score was at the threshold.
    """
    alike = open_voxels(logits, background) == open_voxels(expected, background)
    return {
        "largest": float(np.abs(logits - expected)[:, alike].max(initial=0)),
        "ties": int(np.count_nonzero(~alike)),
    }


def masks_differ(mask: Mask, other: Mask) -> dict[str, Any]:
    """Return the Dice of two masks, 1 if both are empty, and the number of voxels that differ."""
    both = int(mask.sum()) + int(other.sum())
    return {
        "dice": 2 * int((mask & other).sum()) / both if both else 1.0,
        "voxels": int(np.count_nonzero(mask != other)),
    }


def scores(mask: Mask, reference: Mask, spacing: Sequence[float]) -> dict[str, float]:
    """Return a mask's scores against the reference, by the metrics' names.

    Args:
        mask: Shape (z, y, x).
        reference: Of the same shape.
        spacing: Voxel size along z, y, x in mm.
    """
    pair = MaskPair(mask.T, reference.T, affine=np.diag([*reversed(spacing), 1.0]))
    return {metric.name: float(metric(pair)) for metric in METRICS}
