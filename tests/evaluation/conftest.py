"""Fixtures of the evaluation's tests: masks from voxels, boxes and pairs of them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.nifti import Volume, write_volume

SHAPE = (20, 20, 20)


@pytest.fixture
def boxes() -> Callable[..., NDArray[np.bool_]]:
    """Return a function that draws boxes, each given by its first voxel and its size."""

    def draw(*corners_and_sizes, shape=SHAPE):
        mask = np.zeros(shape, dtype=bool)
        for corner, size in corners_and_sizes:
            mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
        return mask

    return draw


@pytest.fixture
def make_pair(boxes) -> Callable[..., MaskPair]:
    """Return a function that pairs predicted boxes with those of the reference."""

    def pair(*, predicted=(), reference=(), spacing=(1.0, 1.0, 1.0), shape=SHAPE):
        masks = boxes(*predicted, shape=shape), boxes(*reference, shape=shape)
        return MaskPair(*masks, affine=np.diag([*spacing, 1.0]))

    return pair


ONE_LABEL = {"background": 0, "tumour": 1}
MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def make_model(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a model's folder, without weights or cases."""

    def write(*, labels: dict | None = None, reader: str = "NibabelIOWithReorient", **extra: object) -> Path:
        folder = tmp_path / "Dataset501_Tiny" / MODEL
        folder.mkdir(parents=True)
        plans = {"dataset_name": "Dataset501_Tiny", "plans_name": "nnUNetPlans", "configurations": {}}
        plans |= {"image_reader_writer": reader, "label_manager": "LabelManager"}
        plans |= {"transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
        (folder / "plans.json").write_text(json.dumps(plans))
        description = {
            "channel_names": {"0": "T1ce"},
            "labels": labels or ONE_LABEL,
            "file_ending": ".nii.gz",
            **extra,
        }
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return write


@pytest.fixture
def add_case() -> Callable[..., PredictedCase]:
    """Return a function that adds a validation case to a model with one label."""

    def write(
        folder: Path,
        name: str,
        tumour: np.ndarray,
        reference: np.ndarray,
        *,
        fold: str = "0",
        patient: str = "",
        spacing: tuple[float, float, float] = (1, 1, 1),
    ) -> PredictedCase:
        """Take both arrays, and the spacing, as z, y, x."""
        validation = folder / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True, exist_ok=True)
        saved = validation / f"{name}.npz"
        tumour = tumour.astype(np.float32)
        np.savez_compressed(saved, probabilities=np.stack([1 - tumour, tumour]))
        references = folder.parent / "gt_segmentations"
        references.mkdir(exist_ok=True)
        mask = validation / f"{name}.nii.gz"
        for path, labels in ((mask, tumour > 0.5), (references / mask.name, reference)):
            write_volume(path, Volume(labels.astype(np.uint8).T, np.diag([*spacing[::-1], 1.0])))
        return PredictedCase(
            model="SGNetTrainer",
            fold=fold,
            name=name,
            patient=patient or name,
            reference=references / mask.name,
            prediction=mask,
            probabilities=saved,
        )

    return write
