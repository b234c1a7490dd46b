"""The inference benchmark's arithmetic, its tables, and a run of its command."""

import json
import os
import sys

import inference
import nibabel as nib
import numpy as np
import pytest
import typer
from inference_speed import commands, growth, memory, network, patient, pinning
from inference_speed.agreement import difference, masks_differ, padded, scores
from inference_speed.bars import rows_of_bars
from inference_speed.growth import typical_piece
from inference_speed.markdown import table, to_markdown
from inference_speed.memory import repeated
from inference_speed.names import EXPORTED, SPARSE, STOCK
from inference_speed.pasting import take_lesion, with_lesions, without_lesions
from inference_speed.patient import padded_to, write_padded
from inference_speed.picture import worst_slice
from inference_speed.processes import run_measured
from inference_speed.results import add_part, read_results
from inference_speed.rounds import in_turn, ratio, spread
from inference_speed.subject import Subject, find_subject
from inference_speed.ways import mask_of, open_voxels
from typer.testing import CliRunner

from sgnet_nnunet.errors import SGNetError

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "python": "3.11", "versions": {"torch": "2"}}
CIRCUMSTANCES = {"machine": MACHINE, "command": "python benchmarks/inference.py", "load_before": 0.1}


def test_in_a_round_every_way_has_its_turn_until_its_rounds_are_over():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert in_turn(ways, {"a": 3, "b": 1}) == {"a": [1, 3, 4], "b": [2]}
    assert calls == ["a", "b", "a", "a"]


def test_ratios_are_of_medians_and_the_spread_of_extremes():
    assert ratio([30.0, 10.0, 500.0], [2.0, 1.0, 40.0]) == 15
    assert spread([2.0, 3.0, 2.5]) == 1.5


def test_masks_are_cut_for_labels_and_for_regions():
    logits = np.array([[1.0, -1.0, -2.0], [0.0, 2.0, -3.0]], dtype=np.float32)[:, None, None]
    assert mask_of(logits, background_head=True).ravel().tolist() == [False, True, False]
    assert mask_of(logits, background_head=False).ravel().tolist() == [True, True, False]


def test_logits_are_compared_where_the_gates_agree():
    background = (0.0, -8.0)
    expected = np.array([[0.0, 1.0, 0.0], [-8.0, 2.0, -8.0]], dtype=np.float32)[:, None, None]
    found = np.array([[0.0, 1.5, 5.0], [-8.0, 2.0, 9.0]], dtype=np.float32)[:, None, None]
    assert open_voxels(found, background).ravel().tolist() == [False, True, True]
    assert difference(found, expected, background) == {"largest": 0.5, "ties": 1}


def test_masks_are_compared_voxel_by_voxel():
    mask, other = np.zeros((2, 4, 4), dtype=bool), np.zeros((2, 4, 4), dtype=bool)
    assert masks_differ(mask, other) == {"dice": 1.0, "voxels": 0}
    mask[0, 0, :2], other[0, 0, 1:4] = True, True
    assert masks_differ(mask, other) == {"dice": 0.4, "voxels": 3}


def test_scores_are_the_evaluations_own():
    reference = np.zeros((12, 12, 12), dtype=bool)
    reference[2:4, 2:4, 2:4] = reference[8:10, 8:10, 8:10] = True
    mask = reference.copy()
    mask[8:10, 8:10, 8:10] = False
    mask[2:4, 8:10, 8:10] = True
    found = scores(mask, reference, (1.0, 1.0, 1.0))
    assert found["dice"] == found["precision"] == found["recall"] == found["lesion_sensitivity"] == 0.5
    assert found["false_positives"] == 1


def test_an_image_is_padded_at_its_ends_only():
    shapes = []

    def run(batch):
        shapes.append(batch.shape)
        return batch[:, :1]

    image = np.random.default_rng(0).random((2, 5, 8, 9), dtype=np.float32)
    assert np.array_equal(padded(run, 8)(image), image[:1])
    assert shapes == [(1, 2, 8, 8, 16)]


def test_the_slice_with_most_differences_is_shown_or_else_the_fullest():
    mask, other = np.zeros((4, 3, 3), dtype=bool), np.zeros((4, 3, 3), dtype=bool)
    mask[1] = other[1] = True
    assert worst_slice(mask, other) == 1
    mask[2, 0, 0] = True
    assert worst_slice(mask, other) == 2


def test_the_piece_is_the_one_most_like_the_whole():
    image, opened = np.zeros((2, 48, 16, 16), dtype=np.float32), np.zeros((48, 16, 16), dtype=bool)
    image[:, :8] = image[:, 16:40] = np.random.default_rng(0).random((1, 24, 16, 16))[:, :1] + 1
    opened[20, :8] = opened[34, :4] = True
    assert np.array_equal(typical_piece(image, opened, size=16), image[:, 32:])
    assert typical_piece(image, opened, size=80).shape == image.shape


def test_lesions_are_taken_out_and_pasted_apart():
    image = np.ones((2, 30, 40, 80), dtype=np.float32)
    image[:, :, :, :4] = image[:, :, :, -4:] = 0
    lesions = np.zeros(image.shape[1:], dtype=bool)
    lesions[10:13, 10:13, 20:23] = True
    image[:, lesions] = 5
    healthy = without_lesions(image, lesions)
    assert set(np.unique(healthy)) == {0, 1}
    lesion = take_lesion(image, lesions)
    assert lesion.values.shape == (2, 11, 11, 11)
    pasted, count = with_lesions(healthy, lesion, 3, rng=np.random.default_rng(0))
    assert count == 3
    assert np.count_nonzero(pasted[0] == 5) == 3 * 27
    _, count = with_lesions(healthy, lesion, 1000, rng=np.random.default_rng(0))
    assert 3 < count < 80


def test_a_volume_is_padded_round_its_middle_and_never_cut(tmp_path):
    assert padded_to(np.ones((2, 5, 3)), (4, 4, 6)).shape == (4, 5, 6)
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.full((2, 5, 3), 7, np.int16), affine), tmp_path / "a_0000.nii.gz")
    assert write_padded([tmp_path / "a_0000.nii.gz"], tmp_path / "out", (4, 4, 6)) == (4, 5, 6)
    image = nib.load(tmp_path / "out/a_0000.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert np.argwhere(np.asarray(image.dataobj) == 7).min(axis=0).tolist() == [1, 0, 1]
    assert (image.affine @ [1, 0, 1, 1])[:3].tolist() == [0, 0, 0]


def test_a_volume_is_repeated_to_a_shape():
    assert repeated(np.arange(3)[:, None, None], (5, 2, 1))[:, 1, 0].tolist() == [0, 1, 2, 0, 1]


def test_a_command_is_measured_with_its_children(tmp_path):
    code = "import time; a = bytearray(80_000_000); time.sleep(0.4)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    spent = run_measured([sys.executable, "-c", nested], log=tmp_path / "logs/log")
    assert 0.4 < spent.seconds < 30
    if sys.platform == "linux":
        assert spent.processes == 2
        assert 80 < spent.peak_mb < 160


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path):
    with pytest.raises(SGNetError, match=r"status 3; see .*log\nsorry"):
        run_measured([sys.executable, "-c", "print('sorry'); raise SystemExit(3)"], log=tmp_path / "log")


def test_pinning_keeps_cores_and_threads(monkeypatch):
    pinned = []
    monkeypatch.setattr(pinning.os, "environ", {})
    monkeypatch.setattr(pinning.os, "sched_getaffinity", lambda _: {7, 3, 5}, raising=False)
    monkeypatch.setattr(pinning.os, "sched_setaffinity", lambda *given: pinned.append(given), raising=False)
    pinning.pin(2)
    assert pinned == [(0, [3, 5])]
    assert pinning.os.environ["OMP_NUM_THREADS"] == "2"


def test_a_table_has_a_head():
    assert table([("a", "b"), ("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


ROWS = [
    {"name": "ours", "seconds": 0.3, "rounds": [0.3] * 5, "peak_mb": 900.0, "processes": 1},
    {"name": "stock", "seconds": 90.0, "rounds": [90.0], "peak_mb": 7000.0, "processes": 9},
]
FIGURES = {
    "network": {
        "shape": [2, 100, 200, 200],
        "brain_share": 0.5,
        "open_share": 0.0123,
        "default_patch_size": [128, 128, 128],
        "rows": ROWS,
        "times_faster": {"ours": {"stock": 300.0}},
    },
    "agreement": {
        "patch_size": [32, 96, 96],
        "cases": [
            {
                "case": "p",
                "sparse_is_whole_openvino": True,
                "sparse_is_whole_torch": False,
                "openvino_to_torch": {"largest": 4e-6, "ties": 2, "dice": 1.0, "voxels": 0},
                "torch_to_dense": {"largest": 4e-6, "ties": 0, "dice": 1.0, "voxels": 0},
                "bf16": None,
                "one_tile": {"dice": 1.0, "voxels": 0},
                "tiles": {"dice": 0.95, "voxels": 321},
                "scores": {"ours": {"dice": 0.75}},
            }
        ],
    },
    "patient": {
        "shape_xyz": [240, 240, 155],
        "channels": 2,
        "rows": ROWS,
        "times_faster": {"ours": {"stock": 300.0}},
    },
    "batch": {
        "distinct": 2,
        "rows": [{"way": "ours", "patients": 20, "seconds": 30.0, "rounds": [30.0], "peak_mb": 900.0}],
    },
    "growth": {
        "way": "sparse",
        "time_per_voxel_spread": 1.23,
        "voxels": [
            {
                "shape": [80, 80, 80],
                "open_share": 0.02,
                "seconds": 0.1,
                "peak_mb": 800.0,
                "rounds": [0.1] * 3,
            }
        ],
        "lesions": [{"lesions": 10, "open_share": 0.03, "seconds": 0.4, "rounds": [0.4] * 3}],
    },
    "memory": {
        "shape_xyz": [512, 512, 400],
        "channels": 2,
        "command_line": "sgnet predict",
        "budget_mb": 4000.0,
        "voxels_that_differ": 0,
        "mask_voxels": 1234,
        "rows": [{"name": "4 GB", "seconds": 60.0, "peak_mb": 3900.0}],
    },
}


def test_every_part_has_its_table_and_the_machine_is_told_once():
    text = to_markdown({part: CIRCUMSTANCES | figures for part, figures in FIGURES.items()})
    assert text.count("a CPU, pinned to 2 cores") == 1
    for line in (
        "| ours | 0.3 | 5 | 300.0 |",
        "| stock | 90 | 1 | – |",
        "4.00 million, of which 50% brain; the finest gate is open at 1.23%",
        "| p | sparse and whole, openvino | the same bits |",
        "| p | sparse and whole, torch | DIFFERENT |",
        "| p | OpenVINO f32 and torch | 4.0e-06; 2 ties; 0 voxels of the mask differ |",
        "| p | sparse and nnU-Net's tiles | Dice 0.9500; 321 voxels differ |",
        "| p | ours | 0.750 |",
        "| ours | 0.3 | 5 | 900 | 1 | 300.0 |",
        "| ours | 20 | 30.0 | 1.50 | 1 | 900 |",
        "| 0.51 | 80x80x80 | 2.00% | 0.1 | 195 | 3 | 800 |",
        "| 10 | 3.00% | 0.4 | 3 |",
        "| 4 GB | 60.0 | 3900 |",
    ):
        assert line in text, line
    assert "bf16" not in text


def test_bars_are_set_beside_the_figures_that_there_are():
    figures = FIGURES | {"network": FIGURES["network"] | {"times_faster": {SPARSE: {STOCK: 149.0}}}}
    figures["network"]["rows"] = [ROWS[0] | {"name": SPARSE}]
    found = {what: (measured, met) for what, _, measured, met in rows_of_bars(figures)}
    assert found["network stage, f32, s"] == ("0.3", "met")
    assert found[f"f32, times faster: {STOCK}"] == ("149", "MISSED")
    assert found["sparse and whole with other bits, patients"] == ("1", "MISSED")
    assert found["the same, voxels of the mask but ties"] == ("0", "met")
    assert found["nnU-Net without tile borders, Dice"] == ("1", "met")
    assert found["memory of the large image, share of its budget"] == ("0.975", "met")
    assert not any("bf16" in what for what in found)
    assert list(rows_of_bars({})) == [("what", "bar", "measured", "")]


def test_a_batch_is_judged_by_the_largest():
    rows = [{"way": EXPORTED, "patients": n, "seconds": s} for n, s in ((1, 4.0), (20, 60.0))]
    found = dict(row[::2] for row in rows_of_bars({"batch": {"rows": rows}}))
    assert found["a patient in a batch, exported model, s"] == "3"


def test_parts_are_added_to_those_there_are(tmp_path):
    add_part(tmp_path / "results", "memory", CIRCUMSTANCES | FIGURES["memory"])
    add_part(tmp_path / "results", "network", CIRCUMSTANCES | FIGURES["network"])
    assert list(read_results(tmp_path / "results")) == ["network", "memory"]
    text = (tmp_path / "results/inference.md").read_text()
    assert text.index("## Network") < text.index("## Memory")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Return a function that runs the command, and have the environment as it was afterwards."""
    monkeypatch.setattr(inference, "pin", lambda _: None)
    monkeypatch.setattr(inference.os, "environ", dict(os.environ))
    app = typer.Typer()
    app.command()(inference.main)

    def invoke(*arguments):
        return CliRunner().invoke(app, list(map(str, arguments)))

    return invoke


@pytest.fixture
def folders(tmp_path):
    model, images = tmp_path / "model", tmp_path / "imagesTs"
    (model / "fold_0").mkdir(parents=True)
    (model / "fold_0/checkpoint_final.pth").touch()
    dataset = {"file_ending": ".nii.gz", "channel_names": {"0": "T1ce"}}
    (model / "dataset.json").write_text(json.dumps(dataset))
    images.mkdir()
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), images / "p_0000.nii.gz")
    return model, images


def test_the_command_measures_what_is_missing_and_what_is_named(run, folders, tmp_path, monkeypatch):
    asked = []

    def record(part):
        return lambda _, **options: asked.append((part, options)) or FIGURES[part]

    for module in (network, patient, growth, memory):
        part = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, f"measure_{part}", record(part))
    results = tmp_path / "results"
    for part in ("agreement", "batch", "memory"):
        add_part(results, part, CIRCUMSTANCES | FIGURES[part])
    assert run(*folders, results, "--rounds", 3).exit_code == 0
    assert [part for part, _ in asked] == ["network", "patient", "growth"]
    assert asked[0][1] == {"rounds": 3, "stock_rounds": 5}
    assert set(read_results(results)) == set(FIGURES)
    asked.clear()
    assert run(*folders, results, "--parts", "memory", "--volume", "64,48,32").exit_code == 0
    assert asked == [("memory", {"shape": (64, 48, 32), "max_memory": 4.0})]


def test_an_unknown_part_or_model_is_refused(run, folders, tmp_path):
    model, images = folders
    found = run(model, images, tmp_path / "results", "--parts", "networks")
    assert found.exit_code == 2
    assert "there is no such part" in found.output
    found = run(tmp_path, images, tmp_path / "results", "--parts", "network")
    assert "checkpoint_final.pth" in str(found.exception)


def test_the_commands_are_those_a_user_types(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "supports_bf16", lambda: True)
    subject = find_subject(*folders, tmp_path / "work")
    monkeypatch.setattr(Subject, "exported", tmp_path / "work/exported")
    found = {name: " ".join(map(str, command)) for name, command in commands.commands_of(subject).items()}
    assert found[EXPORTED] == f"sgnet predict -m {subject.exported}"
    assert found[commands.EXPORTED_BF16].endswith("--precision bf16")
    assert found[commands.STOCK].endswith("-f 0 -device cpu")
    assert found[commands.STOCK_FAST].endswith("-f 0 -device cpu --disable_tta -step_size 0.75")
