"""Masks and probabilities against nnU-Net's export, which resamples every voxel."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as stock_export,
)
from scipy import ndimage

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import PARTIAL_PREFIX
from sgnet_nnunet.inference import postprocessing as segmentation
from sgnet_nnunet.inference.operating_point import OperatingPoint, apply_operating_point
from sgnet_nnunet.inference.postprocessing import probabilities_on_image, segment, write_mask
from sgnet_nnunet.nifti import read_channels, reader_class

FULL = (44, 60, 52)
TRANSPOSES = (([0, 1, 2], [0, 1, 2]), ([2, 0, 1], [1, 2, 0]))
POINTS = (
    OperatingPoint(threshold=0.05, min_lesion_volume_mm3=40),
    OperatingPoint(threshold=0.5, min_lesion_volume_mm3=0),
    OperatingPoint(threshold=0.9, min_lesion_volume_mm3=5),
)


def properties_of(shape, spacing=(1.2, 0.89, 0.85)):
    """Return the properties of a case that cropping has left with this shape."""
    return {
        "spacing": list(spacing),
        "shape_before_cropping": FULL,
        "bbox_used_for_cropping": [[2, 2 + shape[0]], [3, 3 + shape[1]], [5, 5 + shape[2]]],
        "shape_after_cropping_and_before_resampling": shape,
    }


def smooth_logits(plan, shape, *, seed=0):
    """Return blobs of a few voxels in a background, shape (heads, *shape)."""
    rng = np.random.default_rng(seed)
    logits = [ndimage.gaussian_filter(rng.normal(size=shape), 2) * 40 for _ in range(plan.labels.heads)]
    logits = np.stack(logits).astype(np.float32)
    if plan.labels.has_regions:
        return logits - 3
    logits[0] += 3
    return logits


def stock(plan, manager, logits, properties):
    configuration = manager.get_configuration("3d_fullres")
    labels = manager.get_label_manager(plan.dataset)
    mask, probabilities = stock_export(
        logits.copy(), manager, configuration, labels, properties, return_probabilities=True
    )
    return np.asarray(mask), probabilities, labels


@pytest.mark.slow
@pytest.mark.parametrize("transpose", TRANSPOSES)
@pytest.mark.parametrize("shape", [(40, 33, 47), (31, 49, 28), (12, 50, 44)])
def test_mask_is_that_of_nnunet(make_plan, kind, transpose, shape):
    forward, backward = transpose
    plan, manager = make_plan(
        dataset=kind, top={"transpose_forward": forward, "transpose_backward": backward}
    )
    logits, properties = smooth_logits(plan, shape), properties_of((40, 49, 47))
    before = logits.copy()
    mask = segment(logits, properties, plan)
    expected, probabilities, labels = stock(plan, manager, logits, properties)
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == expected.dtype
    assert 0.002 < np.mean(mask > 0) < 0.9
    np.testing.assert_allclose(probabilities_on_image(logits, properties, plan), probabilities, atol=2e-6)
    for point in POINTS:
        at_point = apply_operating_point(probabilities, point, labels, tuple(properties["spacing"]))
        np.testing.assert_array_equal(segment(logits, properties, plan, point=point), at_point)
    np.testing.assert_array_equal(logits, before)


def test_only_blocks_that_see_foreground_are_resampled(make_plan, monkeypatch):
    plan, manager = make_plan()
    logits = np.zeros((2, 40, 50, 45), dtype=np.float32)
    logits[0] = 4
    logits[1, 3:6, 4:7, 35:38] = 9
    voxels = []

    def counting(channel, weights, **options):
        voxels.append(np.prod([len(axis.low) for axis in weights]))
        return resample(channel, weights, **options)

    resample = segmentation.resample
    monkeypatch.setattr(segmentation, "resample", counting)
    properties = properties_of((41, 55, 46))
    mask = segment(logits, properties, plan)
    np.testing.assert_array_equal(mask, stock(plan, manager, logits, properties)[0])
    assert mask.any()
    assert sum(voxels) / 2 <= 2 * 32**3


@pytest.mark.parametrize("point", [None, OperatingPoint(threshold=0.3, min_lesion_volume_mm3=0)])
def test_nothing_found_gives_an_empty_mask(make_plan, kind, point):
    plan, _ = make_plan(dataset=kind)
    logits = np.full((plan.labels.heads, 10, 11, 12), -5, dtype=np.float32)
    logits[0] = -9 if plan.labels.has_regions else 5
    mask = segment(logits, properties_of((12, 13, 14)), plan, point=point)
    assert mask.shape == FULL
    assert not mask.any()


def test_same_grid_needs_no_interpolation(make_plan, kind):
    plan, manager = make_plan(dataset=kind)
    logits, properties = smooth_logits(plan, (40, 49, 47)), properties_of((40, 49, 47))
    np.testing.assert_array_equal(
        segment(logits, properties, plan), stock(plan, manager, logits, properties)[0]
    )


def test_many_labels_take_16_bits(make_plan):
    names = {"background": 0, **{f"label {value}": value for value in range(1, 256)}}
    plan, _ = make_plan(dataset={"labels": names})
    logits = np.zeros((256, 4, 5, 6), dtype=np.float32)
    logits[255, 1:3] = 1
    mask = segment(logits, properties_of((4, 5, 6)), plan)
    assert mask.dtype == np.uint16
    assert mask.max() == 255


@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient", "SimpleITKIO"])
def test_mask_lies_where_the_image_lies(make_case, turned, pool, tmp_path, reader):
    files = make_case("a", affine=turned)
    channels, properties = read_channels(files, reader=reader, pool=pool)
    bright = (channels[0] > 350).astype(np.uint8)
    path, expected = tmp_path / "a.nii.gz", tmp_path / "expected.nii.gz"
    write_mask(path, bright, properties, reader=reader)
    reader_class(reader)().write_seg(bright, str(expected), properties)
    assert nib.load(path).header == nib.load(expected).header
    image = nib.load(files[0])
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), np.asarray(image.dataobj) > 350)
    ours, theirs = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(files[0]))
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        np.testing.assert_allclose(getattr(ours, geometry)(), getattr(theirs, geometry)(), atol=1e-6)


def test_interrupted_writing_leaves_nothing(make_case, pool, tmp_path):
    channels, properties = read_channels(make_case("a"), reader="NibabelIO", pool=pool)
    with pytest.raises(KeyError):
        write_mask(tmp_path / "a.nii.gz", channels[0].astype(np.uint8), {}, reader="NibabelIO")
    assert not list(tmp_path.glob("*.nii.gz")) + list(tmp_path.glob(f"{PARTIAL_PREFIX}*"))
    assert properties


@pytest.mark.parametrize("place", ["file", "file/masks", "/proc/masks"])
def test_folder_that_cannot_be_made_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(InputFileError, match=f"{place}: cannot be made"):
        segmentation.write_model_files(tmp_path / place, None, {})
