"""The four commands of the README, on phantoms and on real patients."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.phantom.population import write_phantoms
from sgnet_nnunet.plugin.shims import SHIMS

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("stock_commands")]
REAL_DATA = Path(os.environ.get("SGNET_REAL_DATA", ROOT.parent / "shared" / "data"))
REAL_COLLECTION = REAL_DATA / "real_tcia_layout"
HALF_WIDTH_MM = 30
SHORT = {"SGNET_EPOCHS": "1", "SGNET_ITERS": "2", "SGNET_VAL_ITERS": "1"}


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


def plan(command, *options: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return command(
        "nnUNetv2_plan_and_preprocess",
        *("-d", "501", "-pl", "SGNetPlanner", "-c", "3d_fullres", "--verify_dataset_integrity"),
        *("-npfp", "1", "-np", "1", *options),
        status=status,
    )


def run_the_four_commands(command, folder: Path, collection: Path, **settings: str) -> None:
    command("sgnet", "convert", str(collection), "-d", "501")
    plan(command)
    # No `-device`: as the README prints it, on a machine with a GPU or without.
    command("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "SGNetTrainer", **SHORT, **settings)
    raw = folder / "nnUNet_raw/Dataset501_BrainMetsLung"
    case = json.loads((raw / "splits_final.json").read_text())[0]["val"][0]
    (folder / "imagesTs").mkdir()
    for channel in range(2):
        name = f"{case}_{channel:04d}.nii.gz"
        (folder / "imagesTs" / name).symlink_to(raw / "imagesTr" / name)
    command(
        "nnUNetv2_predict",
        *("-d", "501", "-i", "imagesTs", "-o", "out", "-c", "3d_fullres", "-tr", "SGNetTrainer", "-f", "0"),
        *("-device", "cpu", "--disable_tta", "-step_size", "0.75", "-npp", "1", "-nps", "1"),
    )
    reference, mask = nib.load(raw / f"labelsTr/{case}.nii.gz"), nib.load(folder / f"out/{case}.nii.gz")
    assert mask.shape == reference.shape
    np.testing.assert_allclose(mask.affine, reference.affine, atol=1e-5)
    assert set(np.unique(mask.dataobj)) <= {0, 1}


def test_four_commands_on_a_tiny_phantom_and_a_look_at_the_model(command, tmp_path, tiny_collection):
    run_the_four_commands(command, tmp_path, tiny_collection)
    dataset = "Dataset501_BrainMetsLung"
    model = f"nnUNet_results/{dataset}/SGNetTrainer__nnUNetPlans__3d_fullres"
    assert (tmp_path / model / "fold_0/validation/gates.json").is_file()
    command("sgnet", "gates", model, "-i", "imagesTs", "-o", "gates", "-l", f"nnUNet_raw/{dataset}/labelsTr")
    assert len(list((tmp_path / "gates").glob("*.png"))) == 1
    assert "model.onnx: largest difference" in command("sgnet", "export", model, "-o", "model.onnx").stdout
    assert "exported: largest difference" in command("sgnet", "export", model, "-o", "exported").stdout
    masks = []
    for folder, name in ((model, "trained"), ("exported", "without_pytorch")):
        command("sgnet", "predict", "-m", folder, "-i", "imagesTs", "-o", name)
        (path,) = (tmp_path / name).glob("*.nii.gz")
        masks.append(np.asarray(nib.load(path).dataobj))
    assert np.array_equal(*masks)
    assert (tmp_path / "model.onnx").is_file()


def test_added_patients_need_the_documented_commands(command, tmp_path, tiny_collection):
    collection, later = (tmp_path / name for name in ("collection", "later"))
    shutil.copytree(tiny_collection, collection)
    later.mkdir()
    # Patients are sorted by name: the first one is added.
    first, *_ = sorted(collection.iterdir())
    first.rename(later / first.name)
    convert = ("sgnet", "convert", str(collection), "-d", "501")
    assert "splits_final.json" not in command(*convert).stderr
    plan(command)
    # Fold 2 will validate on a patient that it is trained on now.
    train = ("nnUNetv2_train", "501", "3d_fullres", "2", "-tr", "SGNetTrainer", "-device", "cpu")
    command(*train, **SHORT)

    (later / first.name).rename(first)
    dataset = "Dataset501_BrainMetsLung"
    copy = tmp_path / "nnUNet_preprocessed" / dataset / "splits_final.json"
    assert f"{copy}: has other folds than" in command(*convert, COLUMNS="1000").stderr
    shown = plan(command, status=1).stderr
    assert f"{copy}: has other folds than" in shown
    assert "AssertionError" not in shown
    assert "SGNetTrainer__nnUNetPlans__3d_fullres" in shown
    copy.unlink()
    plan(command, "--clean")
    assert copy.read_text() == (tmp_path / "nnUNet_raw" / dataset / "splits_final.json").read_text()
    refused = command(*train, "--val", status=1)
    assert "which this network was trained on; restore" in refused.stderr


@pytest.mark.skipif(
    not REAL_COLLECTION.is_dir(), reason=f"no real patients in {REAL_COLLECTION}; set SGNET_REAL_DATA"
)
def test_four_commands_on_real_patients(command, tmp_path):
    # By nnU-Net's sliding window with mirroring the validation of one brain takes two minutes.
    run_the_four_commands(command, tmp_path, REAL_COLLECTION, SGNET_VALIDATION_ENGINE="auto")


def test_regions_train_resume_and_validate_with_a_rival(command, tmp_path, tiny_collection):
    script = ROOT / "dataset_conversion/Dataset501_BrainMetsLung.py"  # the same as `sgnet convert`
    command("python", str(script), str(tiny_collection), "--target", "regions")
    plan(command)
    train = ("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "BaselineUNetTrainer", "-device", "cpu")
    command(*train, **SHORT)
    # The environment no longer says how long: the checkpoint does, and the training is over.
    assert "Epoch 1" not in command(*train, "--c").stdout
    command(*train, "--val", "--npz")
    fold = (
        tmp_path
        / "nnUNet_results/Dataset501_BrainMetsLung/BaselineUNetTrainer__nnUNetPlans__3d_fullres/fold_0"
    )
    splits = json.loads((tmp_path / "nnUNet_raw/Dataset501_BrainMetsLung/splits_final.json").read_text())
    summary = json.loads((fold / "validation/summary.json").read_text())
    assert len(summary["metric_per_case"]) == len(splits[0]["val"])
    assert list(summary["mean"]) == ["(1, 2)", "(2,)"]
    probabilities = np.load(fold / f"validation/{splits[0]['val'][0]}.npz")["probabilities"]
    assert probabilities.shape[0] == 2


def test_doctor_finds_a_sound_installation(command):
    shown = command("sgnet", "doctor").stdout
    assert "✗" not in shown
    assert f"nnU-Net finds all {sum(len(shim.names) for shim in SHIMS)} " in shown
    assert len(shown.splitlines()) == 4


def test_doctor_ends_with_status_1_and_the_remedy_where_a_path_is_missing(command):
    shown = command("sgnet", "doctor", status=1, nnUNet_raw="/nowhere/raw").stdout
    assert 'mkdir -p "/nowhere/raw"' in shown
