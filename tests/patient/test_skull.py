"""Heads are told from brains, and the brain of a head comes from a mask or from HD-BET."""

import contextlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from heads import add_head, draw_brain, real_scans, write_by_itk

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nifti import Volume, read_image, write_volume
from sgnet_nnunet.patient import skull
from sgnet_nnunet.patient.skull import judge, strip
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import draw_patient

SURE = 0.95


@pytest.fixture(scope="module")
def brains() -> list[Volume]:
    return [draw_brain(np.random.default_rng(seed), spacing=3.0)["t1ce"] for seed in range(2)]


@pytest.fixture(scope="module")
def head(brains: list[Volume]) -> Volume:
    return add_head(brains[0], np.random.default_rng(0))


def brain_in(head: Volume, brain: Volume) -> Volume:
    """Return the mask of a brain on the grid of the head that was made around it."""
    inner = brain.oriented("RAS")
    mask = np.zeros(head.data.shape, dtype=np.uint8)
    start = np.rint(np.linalg.inv(head.affine) @ inner.affine[:, 3])[:3].astype(int)
    mask[tuple(slice(a, a + n) for a, n in zip(start, inner.data.shape, strict=True))] = inner.data > 0
    return Volume(mask, head.affine)


def test_a_stripped_brain_is_called_stripped(brains: list[Volume]):
    for brain in brains:
        report = judge(brain)
        assert report.stripped
        assert report.confidence > SURE


def test_the_values_of_a_stripped_brain_may_be_standardised_shifted_or_inverted_in_order(
    brains: list[Volume],
):
    data = brains[0].data.astype(np.float32)
    inside = data > 0
    standard = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)
    traces = data + 1e-5 * np.random.default_rng(0).normal(size=data.shape)
    for values in (
        standard,
        traces,
        np.where(inside, standard, standard.min() - 1),
        data * 1e-6,
        data - 1024,
    ):
        for order in ((0, 1, 2), (2, 0, 1)):
            affine = brains[0].affine.copy()
            affine[:3, :3] = affine[:3, order]
            report = judge(Volume(values.transpose(order), affine))
            assert report.stripped
            assert report.confidence > SURE


@pytest.mark.parametrize(
    ("fat", "masked", "face"),
    [(0.5, True, False), (0.5, False, True), (1.6, True, True), (1.6, False, False)],
)
def test_a_head_is_called_a_head(brains: list[Volume], fat: float, masked: bool, face: bool):
    rng = np.random.default_rng(int(10 * fat) + masked)
    report = judge(add_head(brains[face], rng, fat=fat, masked=masked, face=face))
    assert not report.stripped
    assert report.confidence > SURE


def test_a_blank_volume_and_one_of_few_voxels_are_judged_too():
    for shape in ((1, 1, 1), (3, 4, 5)):
        assert judge(Volume(np.zeros(shape, dtype=np.float32), np.eye(4))).stripped


def test_a_head_without_a_way_to_strip_it_stops_with_what_to_do(
    head: Volume, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(skull, "_has_hdbet", lambda: False)
    with pytest.raises(
        InputFileError, match=r"whole head with its skull \(confidence (9\d|100)%.*--brain-mask.*\[hdbet\]"
    ) as caught:
        strip(head, path=Path("t1ce.nii.gz"))
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_brain_mask_on_any_grid_of_the_head_is_taken(
    tmp_path: Path, head: Volume, brains: list[Volume], suffix: str
):
    mask = brain_in(head, brains[0])
    path = tmp_path / f"brain{suffix}"
    for volume in (
        mask,
        mask.oriented("PIR"),
        Volume(mask.data[2:-2, :, 3:], shifted(mask.affine, (2, 0, 3))),
    ):
        if suffix == ".nii.gz":
            write_volume(path, volume)
        else:
            write_by_itk(path, volume)
        brain, source = strip(head, path=tmp_path, brain_mask=path)
        assert np.array_equal(brain, mask.data > 0)
        assert path.name in source


def shifted(affine: np.ndarray, start: tuple[int, int, int]) -> np.ndarray:
    moved = affine.copy()
    moved[:, 3] = affine @ [*start, 1]
    return moved


def test_a_brain_mask_that_does_not_fit_is_refused(tmp_path: Path, head: Volume, brains: list[Volume]):
    mask = brain_in(head, brains[0])
    away = mask.affine.copy()
    away[0, 3] += 120
    outside = np.zeros_like(mask.data)
    outside[:8] = 1
    bad = {
        "on the T1ce grid": Volume(mask.data, away),
        "lies on air": Volume(outside, mask.affine),
        "whole grid": Volume(np.ones_like(mask.data), mask.affine),
        "empty": Volume(np.zeros_like(mask.data), mask.affine),
        "fractional": Volume(mask.data * np.float32(0.5), mask.affine),
    }
    for expected, volume in bad.items():
        write_volume(tmp_path / "brain.nii.gz", volume)
        with pytest.raises(InputFileError, match=expected):
            strip(head, path=tmp_path, brain_mask=tmp_path / "brain.nii.gz")
    with pytest.raises(InputFileError, match="does not exist"):
        strip(head, path=tmp_path, brain_mask=tmp_path / "absent.nii.gz")


def test_a_brain_mask_needs_an_orientation_if_the_scan_has_one(
    tmp_path: Path, head: Volume, brains: list[Volume]
):
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("with", "without", "mask")}
    mask = brain_in(head, brains[0])
    for path, volume in zip(paths.values(), (head, head, mask), strict=True):
        image = nib.Nifti1Image(volume.data, volume.affine)
        for form in (image.set_sform, image.set_qform):
            form(volume.affine, code=int(path == paths["with"]))
        image.to_filename(path)
    for scan in (paths["with"], tmp_path):  # a folder is a DICOM series
        with pytest.raises(InputFileError, match=r"mask\.nii\.gz: has no orientation"):
            strip(head, path=scan, brain_mask=paths["mask"])
    reoriented = read_image(paths["without"])
    brain, _ = strip(reoriented, path=paths["without"], brain_mask=paths["mask"])
    assert np.array_equal(brain, mask.data > 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize(("kind", "factor"), [("negative", -1), ("fractional", 0.5), ("huge", 2.0**33)])
def test_a_brain_mask_holds_labels(
    tmp_path: Path, head: Volume, brains: list[Volume], suffix: str, kind: str, factor: float
):
    mask, path = brain_in(head, brains[0]), tmp_path / f"brain{suffix}"
    write = write_volume if suffix == ".nii.gz" else write_by_itk
    write(path, Volume(mask.data * np.float32(factor), mask.affine))
    with pytest.raises(InputFileError, match=f"brain{suffix}: mask holds {kind} values"):
        strip(head, path=tmp_path, brain_mask=path)


def test_missing_hdbet_is_named_with_its_extra(tmp_path: Path, head: Volume, without_module):
    without_module("HD_BET")
    with pytest.raises(SGNetError, match=r"pip install 'sgnet-nnunet\[hdbet\]'"):
        strip(head, path=Path("t1ce.nii.gz"), hdbet_weights=tmp_path)


needs_hdbet = pytest.mark.skipif(
    importlib.util.find_spec("HD_BET") is None, reason="hd-bet is not installed: pip install hd-bet"
)


@needs_hdbet
def test_missing_weights_are_not_downloaded_but_explained(tmp_path: Path, head: Volume):
    with pytest.raises(
        InputFileError, match=r"lack .*checkpoint_final.pth.*--brain-mask.*zenodo.*--hdbet-weights"
    ):
        strip(head, path=Path("t1ce.nii.gz"), hdbet_weights=tmp_path)


@needs_hdbet
def test_weights_that_could_run_code_are_refused(tmp_path: Path, head: Volume):
    write_stand_in(tmp_path)
    torch.save({"network_weights": os.system}, tmp_path / "fold_all" / "checkpoint_final.pth")
    with pytest.raises(InputFileError, match="more than weights"):
        strip(head, path=Path("t1ce.nii.gz"), hdbet_weights=tmp_path)


def write_stand_in(folder: Path) -> None:
    """Write a model folder as HD-BET's, of one convolution that calls every bright voxel brain."""
    network = {"strides": [[1, 1, 1], [2, 2, 2]], "kernel_sizes": [[1, 1, 1], [1, 1, 1]]}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [2, 2],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            **network,
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": None,
            "norm_op_kwargs": None,
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "stand_in",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [64, 64, 64],
        "median_image_size_in_voxels": [64.0, 64.0, 64.0],
        "spacing": [3.0, 3.0, 3.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": architecture,
        "batch_dice": False,
    }
    plans = {
        "dataset_name": "Dataset000_Heads",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 3.0, 3.0],
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0.0, "std": 1.0}},
    }
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "brain": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "fold_all").mkdir(exist_ok=True)
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415

    built = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    weights = {name: torch.zeros_like(value) for name, value in built.state_dict().items()}
    for name, value in weights.items():
        if name.endswith("seg_layers.0.bias"):
            value.copy_(torch.tensor([-1.0, 1.0]))
    content = {
        "network_weights": weights,
        "init_args": {
            "plans": plans,
            "configuration": "3d_fullres",
            "dataset_json": description,
            "fold": "all",
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(content, folder / "fold_all" / "checkpoint_final.pth")


@needs_hdbet
@pytest.mark.slow
def test_hdbet_runs_with_its_weights_in_a_folder_and_leaves_no_trace(tmp_path: Path, head: Volume):
    write_stand_in(tmp_path)
    small = Volume(head.data[::2, ::2, ::2], head.affine @ np.diag([2, 2, 2, 1])).oriented("PIR")
    before = (torch.get_num_threads(), sys.stdout, dict(os.environ), sorted(tmp_path.rglob("*")))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        brain, source = strip(small, path=Path("t1ce.nii.gz"), hdbet_weights=tmp_path)
    assert brain.shape == small.data.shape
    assert brain.dtype == bool
    assert brain.all()  # what the stand-in says
    assert source == "HD-BET"
    assert output.getvalue() == ""
    assert (torch.get_num_threads(), sys.stdout, dict(os.environ), sorted(tmp_path.rglob("*"))) == before


@pytest.mark.slow
def test_real_scans_are_judged_right():
    folder = real_scans()
    stripped = sorted([*folder.glob("*/*/*t1ce_img*"), *folder.glob("*/*/*flair_img*")])
    heads = sorted(folder.glob("real_native_grids/*.nii.gz"))
    assert len(stripped) >= 6
    assert heads
    for path in (*stripped, *heads):
        report = judge(read_image(path))
        assert report.stripped == (path in stripped), path.name
        assert report.confidence > SURE
    head = read_image(heads[-1])
    masked = Volume(np.where(head.data > 30, head.data, 0), head.affine)
    assert not judge(masked).stripped


@pytest.mark.slow
def test_phantoms_and_the_heads_around_them_are_judged_right():
    rng = np.random.default_rng(3)
    scans = draw_patient(rng, PhantomConfig(t1ce_in_plane=(1.4, 1.6), t1ce_slice=(1.5, 2.0)))
    brain = scans["t1ce_img"]
    for volume in (brain, scans["flair_img"], brain.oriented("SAR")):
        assert judge(volume).stripped
    for masked in (False, True):
        assert not judge(add_head(brain, rng, masked=masked)).stripped
