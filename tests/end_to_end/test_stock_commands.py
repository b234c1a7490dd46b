"""The four commands of the README, on phantoms and on real patients."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.collection import PARTS, part_path
from sgnet_nnunet.io.volume import Volume, write_volume
from sgnet_nnunet.phantom.dataset import write_phantoms

ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("SGNET_REAL_DATA", ROOT.parent / "shared" / "data"))
REAL_COLLECTION = REAL_DATA / "real_tcia_layout"
HALF_WIDTH_MM = 30


def crop(source: Path, target: Path, centre_mm: np.ndarray) -> None:
    """Copy the cube of a NIfTI file round a world point."""
    image = nib.load(source)
    centre = nib.affines.apply_affine(np.linalg.inv(image.affine), centre_mm)
    half = HALF_WIDTH_MM / nib.affines.voxel_sizes(image.affine)
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half), image.shape).astype(int)
    part = image.slicer[tuple(map(slice, low, high))]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, Volume(np.asarray(part.dataobj), part.affine))


@pytest.fixture(scope="session")
def tiny_collection(tmp_path_factory) -> Path:
    """Return a collection of five phantom patients, cut down to the surroundings of a tumour."""
    whole, tiny = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("tiny")
    for folder in write_phantoms(whole, patients=5, seed=0, workers=2):
        accession = next(folder.glob("*_core_seg.nii.gz")).name.removesuffix("_core_seg.nii.gz")
        mask = nib.load(part_path(whole, folder.name, accession, "core_seg"))
        voxels = np.argwhere(np.asarray(mask.dataobj) > 0)
        centre = nib.affines.apply_affine(mask.affine, voxels[len(voxels) // 2])
        for part in PARTS:
            paths = [part_path(root, folder.name, accession, part) for root in (whole, tiny)]
            crop(*paths, centre)
    return tiny


def run_the_four_commands(
    command, folder: Path, collection: Path, *, target: str, processes: str = "1"
) -> dict:
    command("sgnet", "convert", str(collection), "-d", "501", "--target", target)
    command(
        "nnUNetv2_plan_and_preprocess",
        *("-d", "501", "-pl", "SGNetPlanner", "-c", "3d_fullres", "--verify_dataset_integrity"),
        *("-npfp", processes, "-np", processes),
    )
    short = {"SGNET_EPOCHS": "1", "SGNET_ITERS": "2", "SGNET_VAL_ITERS": "1"}
    command("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "SGNetTrainer", **short)
    command(
        "nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "SGNetTrainer", "-device", "cpu", "--val", "--npz"
    )
    raw = folder / "nnUNet_raw/Dataset501_BrainMetsLung"
    results = folder / "nnUNet_results/Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres"
    case = json.loads((raw / "splits_final.json").read_text())[0]["val"][0]
    (folder / "imagesTs").mkdir()
    for channel in range(2):
        (folder / f"imagesTs/{case}_{channel:04d}.nii.gz").symlink_to(
            raw / f"imagesTr/{case}_{channel:04d}.nii.gz"
        )
    command(
        "nnUNetv2_predict",
        *("-d", "501", "-i", "imagesTs", "-o", "out", "-c", "3d_fullres", "-tr", "SGNetTrainer", "-f", "0"),
        *("-device", "cpu", "--disable_tta", "-step_size", "0.75", "-npp", "1", "-nps", "1"),
    )
    truth, mask = nib.load(raw / f"labelsTr/{case}.nii.gz"), nib.load(folder / f"out/{case}.nii.gz")
    assert mask.shape == truth.shape
    np.testing.assert_allclose(mask.affine, truth.affine, atol=1e-5)
    assert (results / f"fold_0/validation/{case}.npz").is_file()
    summary = json.loads((results / "fold_0/validation/summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(
        json.loads((raw / "splits_final.json").read_text())[0]["val"]
    )
    return {"labels": set(np.unique(mask.dataobj)), "summary": summary}


@pytest.mark.parametrize(("target", "labels"), [("whole", {0, 1}), ("regions", {0, 1, 2})])
def test_four_commands_on_a_tiny_phantom(command, tmp_path, tiny_collection, target, labels):
    result = run_the_four_commands(command, tmp_path, tiny_collection, target=target)
    assert result["labels"] <= labels


@pytest.mark.skipif(
    not REAL_COLLECTION.is_dir(), reason=f"real patients are not at {REAL_COLLECTION}; set SGNET_REAL_DATA"
)
def test_four_commands_on_real_patients(command, tmp_path):
    result = run_the_four_commands(command, tmp_path, REAL_COLLECTION, target="whole")
    assert result["labels"] <= {0, 1}


def test_resumed_training_ends_at_the_recorded_length(command, tmp_path, tiny_collection):
    command("sgnet", "convert", str(tiny_collection))
    command(
        "nnUNetv2_plan_and_preprocess",
        *("-d", "501", "-pl", "SGNetPlanner", "-c", "3d_fullres", "-npfp", "1", "-np", "1"),
    )
    short = {"SGNET_EPOCHS": "2", "SGNET_ITERS": "1", "SGNET_VAL_ITERS": "1"}
    command("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "UNetTrainer", "-device", "cpu", **short)
    # The environment no longer says how long: the checkpoint does, and the training is over.
    again = command("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "UNetTrainer", "-device", "cpu", "--c")
    assert "Epoch 2" not in again.stdout
    assert "Mean Validation Dice" in again.stdout


def test_doctor_finds_a_sound_installation(command):
    shown = command("sgnet", "doctor").stdout
    assert "✗" not in shown
    for name in ("SGNetTrainer", "UNetTrainer", "AttentionUNetTrainer", "ResUNetTrainer", "SGNetPlanner"):
        assert name in shown


def test_doctor_ends_with_status_1_and_the_remedy_where_a_path_is_missing(command):
    shown = command("sgnet", "doctor", status=1, nnUNet_raw="/nowhere/raw").stdout
    assert 'mkdir -p "/nowhere/raw"' in shown
