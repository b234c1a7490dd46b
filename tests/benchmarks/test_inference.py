"""The inference benchmark on a tiny gated network: every part once, and its tables."""

import json
import shutil
from pathlib import Path

import inference
import inference_engines
import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from inference import (
    EXPORTED,
    STOCK,
    TRAINED,
    add_part,
    measure_batch,
    measure_memory,
    measure_patient,
    read_results,
    write_padded,
)
from inference_engines import (
    SLIDING_WINDOW,
    SPARSE,
    TILES,
    compare_masks,
    find_subject,
    measure_agreement,
    measure_growth,
    measure_network,
    padded,
    worst_slice,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from timing import Spent
from typer.testing import CliRunner

from sgnet_nnunet.networks.gates import HardSpatialGate
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer

pytest.importorskip("openvino")

MACHINE = {
    "cpu": "a CPU", "cores": 2, "threads": 2, "device": "cpu", "python": "3.11", "versions": {"torch": "2"},
}  # fmt: skip
CIRCUMSTANCES = {"machine": MACHINE, "command": "python benchmarks/inference.py", "load_before": 0.1}
FEATURES = [4, 8, 8, 16]


@pytest.fixture(scope="module")
def subject(tmp_path_factory, make_dataset, write_fingerprint, nnunet_folders):
    root = tmp_path_factory.mktemp("nnunet")
    with nnunet_folders(root):
        raw = make_dataset(root / "nnUNet_raw", cases=2)
        write_fingerprint(root / "nnUNet_preprocessed/Dataset501_Tiny", cases=2)
        plans = SGNetPlanner(501).plan_experiment()
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [24, 40, 24]
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = FEATURES
    model = root / "SGNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    save(model, weights(plans))
    (model / "plans.json").write_text(json.dumps(plans))
    shutil.copy(raw / "dataset.json", model)
    shutil.copy(root / "nnUNet_preprocessed/Dataset501_Tiny/dataset_fingerprint.json", model)
    found = find_subject(model, write_patients(root), root / "work")
    predictor = found.predictor()
    image = torch.from_numpy(found.preprocessed(predictor, "a")[0])[None, :, :16, :32, :32]
    open_in_places(predictor.network, image)
    save(model, predictor.network.state_dict())
    return found


def weights(plans):
    torch.manual_seed(0)
    manager = PlansManager(plans)
    return SGNetTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    ).state_dict()


def save(model, state):
    checkpoint = {
        "trainer_name": "SGNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": state,
    }
    torch.save(checkpoint, model / "fold_0/checkpoint_final.pth")


def open_in_places(tiny, image):
    """Shift the scores of a network, as if trained, and its head's until it sees a tumour."""
    tiny.return_gates = True
    gates = [module for module in tiny.modules() if isinstance(module, HardSpatialGate)]
    norms = [module for module in tiny.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    with torch.inference_mode():
        for norm in norms:
            norm.momentum = 1.0
        tiny.train()(image)
        tiny.eval()
        for index, gate in enumerate(gates):
            score = tiny(image).decisions[index].score
            gate.score.bias -= torch.quantile(score.flatten(), 0.8).item() - gate.score_threshold
        tiny.return_gates = False
        tiny.head.weight *= 100
        logits = tiny(image)[0]
        admitted = logits[:, logits[1] != tiny.background_logit]
        tiny.head.bias -= admitted.median(dim=1).values


def write_patients(root):
    images, labels, rng = root / "imagesTs", root / "labelsTs", np.random.default_rng(0)
    for folder in (images, labels):
        folder.mkdir()
    for name in "ab":
        label = np.zeros((36, 34, 20), dtype=np.uint8)
        label[8:12, 10:14, 4:8] = 1
        write_volume(labels / f"{name}.nii.gz", Volume(label, np.eye(4)))
        for channel in range(2):
            data = rng.normal(300, 30, label.shape) + 400.0 * label
            write_volume(images / f"{name}_{channel:04d}.nii.gz", Volume(data.astype(np.int16), np.eye(4)))
    return images


@pytest.fixture
def commands_run(monkeypatch, subject):
    """Replace commands by ones that only write a mask, and return the list of them."""
    run = []

    def pretend(arguments, *, log):
        run.append([Path(part).name if isinstance(part, Path) else part for part in arguments])
        output = arguments[arguments.index("-o") + 1]
        output.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((40, 36, 24), dtype=np.uint8)
        mask[: 2 if "--max-memory" in arguments else 3, 0, 0] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), output / "large.nii.gz")
        return Spent(seconds=60.0 if arguments[0].startswith("nnUNet") else 2.0, peak_mb=100.0)

    monkeypatch.setattr(inference, "run_measured", pretend)
    monkeypatch.setattr(inference, "PATIENT_SHAPE", (40, 30, 24))
    return run


def written(tmp_path, part, figures):
    """Return the Markdown of one part."""
    add_part(tmp_path, part, CIRCUMSTANCES | figures)
    assert list(read_results(tmp_path)) == [part]
    return (tmp_path / "inference.md").read_text()


@pytest.mark.slow
def test_only_rows_of_the_same_mirroring_are_compared(subject, tmp_path):
    figures = measure_network(subject, rounds=2, stock_rounds=1)
    rows = {(row["name"], row["step"], row["mirroring"]): row for row in figures["rows"]}
    ours, mirrored = rows[SPARSE, None, False], rows[SPARSE, None, True]
    assert len(ours["rounds"]) == 2
    for row, mirroring in ((ours, False), (mirrored, True)):
        stock = rows[SLIDING_WINDOW, 0.5, mirroring]
        assert row["times_step_0.5"] == pytest.approx(stock["seconds"] / row["seconds"])
    assert "times_step_0.75" not in mirrored
    assert figures["shape"] == [2, 20, 34, 36]
    assert 0 < figures["open_share"] < 1
    text = written(tmp_path, "network", figures)
    assert f"| {SPARSE} | whole image | no | " in text
    assert f"| {SLIDING_WINDOW} | 0.5 | yes | " in text
    assert "times as fast as step 0.75, same mirroring |" in text


@pytest.mark.slow
def test_masks_of_whole_images_and_of_tiles_are_compared_and_drawn(subject, tmp_path):
    figures = measure_agreement(subject, patients=1, picture=tmp_path / "difference.png")
    rows = {row["other"]: row for row in figures["rows"]}
    assert rows["nnU-Net, one tile"]["dice"] > 0.999
    assert rows[TILES]["voxels"] > 0
    assert [row["prediction"] for row in figures["scores"]] == [SPARSE, TILES]
    assert (tmp_path / "difference.png").stat().st_size > 1000
    assert f"| a | {TILES} | " in written(tmp_path, "agreement", figures)


@pytest.mark.slow
def test_growth_repeats_the_image_up_to_the_largest_size(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(inference_engines, "REPEATS", ((1, 1, 1), (2, 1, 1), (90, 9, 9)))
    figures = measure_growth(subject, rounds=1, million_voxels=1)
    assert [round(row["million voxels"], 4) for row in figures["rows"]] == [0.0245, 0.049]
    assert "| ns per voxel | peak MB |" in written(tmp_path, "growth", figures)


@pytest.mark.slow
def test_a_patient_is_padded_and_timed_in_fresh_processes(subject, commands_run, tmp_path):
    figures = measure_patient(subject, rounds=2, stock_rounds=1)
    assert figures["shape_xyz"] == [40, 34, 24]
    ours = figures["rows"][0]
    assert (ours["name"], ours["mirroring"], ours["times_step_0.5"], ours["times_step_0.75"]) == (
        EXPORTED, False, 30, 30,
    )  # fmt: skip
    for command in commands_run:
        stock = command[0].startswith("nnUNet")
        assert ("--disable_tta" in command) <= stock
    assert f"| {STOCK} | 0.5 | no | 60 | 1 | 100 | – | – |" in written(tmp_path, "patient", figures)


@pytest.mark.slow
def test_batches_are_patients_under_other_names(subject, commands_run, tmp_path):
    figures = measure_batch(subject, rounds=1, stock_rounds=1, patients=3, stock_patients=2)
    assert [(row["name"], row["patients"]) for row in figures["rows"]] == [
        (EXPORTED, 1), (EXPORTED, 3), (TRAINED, 3), (STOCK, 2),
    ]  # fmt: skip
    names = sorted(path.name for path in (subject.work / "batch_3").iterdir())
    assert names[::2] == [f"patient00{number}_0000.nii.gz" for number in range(3)]
    assert f"| {STOCK} | 0.5 | no | 2 | 30.00 |" in written(tmp_path, "batch", figures)


@pytest.mark.slow
def test_a_large_image_is_predicted_with_and_without_a_limit(subject, commands_run, tmp_path):
    figures = measure_memory(subject, shape=(40, 36, 24), max_memory=1.5)
    assert commands_run[0][4:6] == ["--max-memory", "1.5"]
    assert "--max-memory" not in commands_run[1]
    assert (figures["voxels_that_differ"], figures["mask_voxels"]) == (1, 3)
    assert nib.load(subject.work / "large/large_0001.nii.gz").shape == (40, 36, 24)
    assert "| 1.5 GB | 2.0 | 100 |" in written(tmp_path, "memory", figures)


def test_an_image_is_padded_at_its_ends_and_a_file_on_all_sides(tmp_path):
    image = np.random.default_rng(0).random((2, 5, 8, 9), dtype=np.float32)
    assert np.array_equal(padded(lambda batch: batch[:, :1], 8)(image), image[:1])
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.full((2, 5, 3), 7, np.int16), affine), tmp_path / "a_0000.nii.gz")
    assert write_padded([tmp_path / "a_0000.nii.gz"], tmp_path / "out", (4, 4, 6)) == (4, 5, 6)
    found = nib.load(tmp_path / "out/a_0000.nii.gz")
    assert np.argwhere(np.asarray(found.dataobj) == 7).min(axis=0).tolist() == [1, 0, 1]
    assert (found.affine @ [1, 0, 1, 1])[:3].tolist() == [0, 0, 0]


def test_masks_are_compared_and_the_worst_slice_is_found():
    mask, other = np.zeros((4, 4, 4), dtype=bool), np.zeros((4, 4, 4), dtype=bool)
    assert compare_masks(mask, other) == {"dice": 1.0, "voxels": 0}
    mask[1] = other[1] = True
    assert worst_slice(mask, other) == 1
    other[2, 0, :2] = True
    assert compare_masks(mask, other) == {"dice": pytest.approx(32 / 34), "voxels": 2}
    assert worst_slice(mask, other) == 2


def test_an_unknown_part_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "pin", lambda _: None)
    app = typer.Typer()
    app.command()(inference.main)
    result = CliRunner().invoke(app, ["model", "images", str(tmp_path), "--parts", "network,speed"])
    assert result.exit_code == 2
    assert "unknown parts: speed" in result.output
