"""The inference benchmark's parts, on a tiny gated network that is not trained."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from inference_speed import batch, commands, growth, patient
from inference_speed.agreement import measure_agreement
from inference_speed.batch import measure_batch
from inference_speed.growth import measure_growth
from inference_speed.memory import measure_memory
from inference_speed.names import EXPORTED, SPARSE, STOCK, STOCK_FAST, TRAINED
from inference_speed.network import measure_network
from inference_speed.patient import measure_patient
from inference_speed.processes import Spent
from inference_speed.subject import find_subject, nnunet_paths
from inference_speed.ways import DEFAULT_NETWORK
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.networks.gates import HardSpatialGate
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer

pytest.importorskip("openvino")

FEATURES = [4, 8, 8, 16]


@pytest.fixture(scope="module")
def subject(tmp_path_factory, make_dataset, write_fingerprint):
    root = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        raw = make_dataset(root / "nnUNet_raw", cases=2)
        write_fingerprint(root / "nnUNet_preprocessed/Dataset501_Tiny")
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


@pytest.fixture(autouse=True)
def paths(subject, monkeypatch):
    for name, path in nnunet_paths(subject.work).items():
        monkeypatch.setenv(name, path)


@pytest.fixture
def commands_run(monkeypatch):
    """Have commands that only write a mask, and return the list of them."""
    run = []

    def pretend(arguments, *, log):
        run.append([Path(part).name if isinstance(part, Path) else part for part in arguments])
        output = arguments[arguments.index("-o") + 1]
        output.mkdir(parents=True, exist_ok=True)
        limited = "--max-memory" in arguments
        mask = np.zeros((40, 36, 24), dtype=np.uint8)
        mask[: 2 if limited else 3, 0, 0] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), output / "large.nii.gz")
        seconds = 60.0 if arguments[0].startswith("nnUNet") else 2.0
        return Spent(seconds=seconds, peak_mb=100.0 * len(run), processes=1)

    monkeypatch.setattr(commands, "run_measured", pretend)
    monkeypatch.setattr(commands, "supports_bf16", lambda: False)
    return run


def test_the_network_stage_is_timed_every_way_and_set_against_nnunets(subject):
    found = measure_network(subject, rounds=2, stock_rounds=1)
    rounds = {row["name"]: len(row["rounds"]) for row in found["rows"]}
    assert rounds[SPARSE] == 2
    assert rounds[STOCK] == rounds[STOCK_FAST] == rounds[DEFAULT_NETWORK] == 1
    assert found["shape"] == [2, 20, 34, 36]
    assert 0 < found["open_share"] < 1
    assert found["times_faster"][SPARSE][STOCK] > 1


def test_ways_agree_and_are_scored(subject, tmp_path):
    picture = tmp_path / "results/difference.png"
    (row,) = measure_agreement(subject, patients=1, picture=picture)["cases"]
    assert row["sparse_is_whole_openvino"]
    assert row["sparse_is_whole_torch"]
    assert row["torch_to_dense"]["largest"] < 1e-3
    assert row["openvino_to_torch"]["dice"] > 0.999
    assert row["one_tile"]["dice"] > 0.999
    assert row["tiles"]["voxels"] > 0
    assert set(row["scores"]) == {SPARSE, "nnU-Net's tiles"}
    assert picture.stat().st_size > 1000


def test_growth_is_measured_against_voxels_and_lesions(subject, monkeypatch):
    monkeypatch.setattr(growth, "REPEATS", ((1, 1, 1), (2, 1, 1), (9, 9, 9)))
    monkeypatch.setattr(growth, "LESIONS", (0, 1, 999))
    monkeypatch.setattr(growth, "LEAST", 1)
    found = measure_growth(subject, rounds=1, million_voxels=1)
    assert [row["shape"] for row in found["voxels"]] == [[20, 34, 36], [40, 34, 36]]
    assert [row["lesions"] for row in found["lesions"]] == [0, 1]
    assert found["time_per_voxel_spread"] >= 1


def test_a_patient_is_padded_and_timed_in_fresh_processes(subject, commands_run, monkeypatch):
    monkeypatch.setattr(patient, "SHAPE", (40, 30, 24))
    found = measure_patient(subject, rounds=2, stock_rounds=1)
    assert found["shape_xyz"] == [40, 34, 24]
    assert found["times_faster"][EXPORTED] == {commands.STOCK: 30, commands.STOCK_FAST: 30}
    ours, stock = ["sgnet"] * 2, ["nnUNetv2_predict_from_modelfolder"] * 2
    assert [command[0] for command in commands_run] == [*ours, *stock, *ours]
    assert commands_run[0][:4] == ["sgnet", "predict", "-m", "exported"]


def test_batches_are_of_patients_under_other_names(subject, commands_run, monkeypatch):
    monkeypatch.setattr(batch, "SHAPE", (40, 30, 24))
    found = measure_batch(subject, rounds=1, stock_rounds=1, patients=3, stock_patients=2)
    assert [(row["way"], row["patients"]) for row in found["rows"]] == [
        (EXPORTED, 1),
        (EXPORTED, 3),
        (TRAINED, 3),
        (commands.STOCK_FAST, 2),
    ]
    names = sorted(path.name for path in (subject.work / "batch_3").iterdir())
    assert names[::2] == [f"patient00{number}_0000.nii.gz" for number in range(3)]
    assert nib.load(subject.work / "batch_3" / names[-1]).shape == (40, 34, 24)


def test_a_large_image_is_predicted_with_and_without_a_budget(subject, commands_run):
    found = measure_memory(subject, shape=(40, 36, 24), max_memory=1.5)
    assert commands_run[0][4:6] == ["--max-memory", "1.5"]
    assert "--max-memory" not in commands_run[1]
    assert (found["voxels_that_differ"], found["mask_voxels"]) == (1, 3)
    assert nib.load(subject.work / "large/large_0001.nii.gz").shape == (40, 36, 24)
