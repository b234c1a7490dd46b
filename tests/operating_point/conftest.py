"""Models whose fold validations were saved with probabilities."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sgnet_nnunet.io.volume import Volume, write_volume
from sgnet_nnunet.results.case import PredictedCase

ONE_LABEL = {"background": 0, "tumour": 1}
MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="session")
def label_managers() -> dict[str, LabelManager]:
    return {
        "one label": LabelManager(ONE_LABEL, None),
        "three labels": LabelManager({"background": 0, "oedema": 1, "core": 2, "cyst": 3}, None),
        "regions": LabelManager({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2]),
    }


@pytest.fixture
def make_model(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a model's folder, without weights or cases."""

    def write(*, labels: dict | None = None, reader: str = "NibabelIOWithReorient", **extra: object) -> Path:
        folder = tmp_path / "Dataset501_Tiny" / MODEL
        folder.mkdir(parents=True)
        plans = {"dataset_name": "Dataset501_Tiny", "plans_name": "nnUNetPlans", "configurations": {}}
        plans |= {"image_reader_writer": reader, "label_manager": "LabelManager"}
        (folder / "plans.json").write_text(json.dumps(plans))
        description = {"labels": labels or ONE_LABEL, "file_ending": ".nii.gz", **extra}
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
        truth: np.ndarray,
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
        reference = references / f"{name}.nii.gz"
        write_volume(reference, Volume(truth.astype(np.uint8).T, np.diag([*spacing[::-1], 1.0])))
        return PredictedCase(
            model="SGNetTrainer",
            fold=fold,
            name=name,
            patient=patient or name,
            reference=reference,
            prediction=None,
            probabilities=saved,
        )

    return write
