"""Preprocessing against nnU-Net's `DefaultPreprocessor`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from scipy import ndimage
from torch.nn import functional

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.plan import MISSING_CHANNELS
from sgnet_nnunet.inference.preprocessing import (
    fill_holes,
    grid_weights,
    new_shape,
    prepare,
    resample,
)
from sgnet_nnunet.nifti import Volume, read_channels, write_volume

# NumPy 1 rounds the percentiles of single precision otherwise.
ROUNDING = 0 if np.__version__ >= "2" else 1e-5


def stock(files, plan, manager, label=None):
    configuration = manager.get_configuration("3d_fullres")
    image, _, properties = configuration.preprocessor_class(verbose=False).run_case(
        [str(path) for path in files], label and str(label), manager, configuration, plan.dataset
    )
    return np.asarray(image), properties


@pytest.mark.parametrize("masked", [[False, False], [True, True], [False, True]])
@pytest.mark.parametrize("spacing", [[1.0, 1.0, 1.0], [1.3, 0.8, 1.1], [2.5, 0.9, 1.1]])
@pytest.mark.parametrize("transpose", [([0, 1, 2], [0, 1, 2]), ([2, 0, 1], [1, 2, 0])])
def test_agrees_with_nnunet(make_plan, make_case, turned, pool, masked, spacing, transpose):
    forward, backward = transpose
    plan, manager = make_plan(
        top={"transpose_forward": forward, "transpose_backward": backward},
        configuration={"use_mask_for_norm": masked, "spacing": spacing},
    )
    for affine in (np.eye(4), turned):
        files = make_case("a", affine=affine)
        prepared = prepare(*read_channels(files, reader=plan.reader, pool=pool), plan, pool=pool)
        image, properties = stock(files, plan, manager)
        assert prepared.image.shape == image.shape
        np.testing.assert_allclose(prepared.image, image, rtol=1e-6, atol=1e-6 + ROUNDING)
        assert list(prepared.properties) == list(properties)
        for key in properties:
            assert str(prepared.properties[key]) == str(properties[key])


@pytest.mark.parametrize("masked", [[False, False], [True, True]])
def test_a_channel_that_the_model_can_do_without_stays_zero_where_it_is_missing(
    make_plan, make_case, pool, masked
):
    configuration = {"use_mask_for_norm": masked, "spacing": [1.3, 0.8, 1.1]}
    plan, _ = make_plan(configuration=configuration, top={MISSING_CHANNELS: ["FLAIR"]})
    without, _ = make_plan(configuration=configuration)
    channels, properties = read_channels(make_case("a"), reader=plan.reader, pool=pool)
    doubled = [channels[0].copy(), channels[0].copy()]
    missing = prepare([channels[0].copy(), 0 * channels[1]], properties, plan, pool=pool)
    expected = prepare(doubled, properties, without, pool=pool)
    np.testing.assert_array_equal(missing.image[0], expected.image[0])
    assert not missing.image[1].any()
    # A channel that is there is as always.
    full = [prepare([c.copy() for c in channels], properties, each, pool=pool) for each in (plan, without)]
    np.testing.assert_array_equal(full[0].image, full[1].image)


def test_image_of_zeros_is_kept_whole_as_nnunet_does(make_plan, tmp_path, pool):
    plan, manager = make_plan(configuration={"normalization_schemes": ["NoNormalization"] * 2})
    files = [tmp_path / f"a_{channel:04d}.nii.gz" for channel in range(2)]
    for path in files:
        write_volume(path, Volume(np.zeros((6, 5, 4), dtype=np.int16), np.eye(4)))
    prepared = prepare(*read_channels(files, reader=plan.reader, pool=pool), plan, pool=pool)
    image, properties = stock(files, plan, manager)
    np.testing.assert_allclose(prepared.image, image, rtol=0, atol=ROUNDING)
    assert prepared.properties["bbox_used_for_cropping"] == properties["bbox_used_for_cropping"]


PERCENTILE = {"PercentileNormalization": False, "PercentileTo01Normalization": True}
"""SG-Net's normalisations, and whether they clip."""


def write_head(folder, rng, *, stripped):
    """Write two channels of an ellipsoid that reaches all sides, its background zero if it is stripped."""
    shape = rng.integers(14, 24, size=3)
    axes = [np.linspace(-1, 1, n) for n in shape]
    head = sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij")) <= rng.uniform(1.05, 1.4)
    channels = []
    for channel in range(2):
        values = rng.gamma(3, 100, shape).astype(np.float32) + 1
        channels.append(values * head if stripped else values)
        write_volume(folder / f"a_{channel:04d}.nii.gz", Volume(channels[-1], np.eye(4)))
    labels = head & (channels[0] > np.percentile(channels[0][head], 98))
    write_volume(folder / "a.nii.gz", Volume(labels.astype(np.uint8), np.eye(4)))
    return sorted(folder.glob("a_*.nii.gz")), folder / "a.nii.gz", channels, head


@pytest.mark.parametrize("scheme", PERCENTILE)
@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_those_of_the_brain_where_the_plan_says_so(
    make_plan, tmp_path, pool, scheme, stripped, masked, seed
):
    """A plan of version 0.1 or later without masks gives the percentiles of the whole crop, as ever."""
    files, label, channels, head = write_head(tmp_path, np.random.default_rng(seed), stripped=stripped)
    plan, manager = make_plan(
        configuration={"normalization_schemes": [scheme] * 2, "use_mask_for_norm": [masked] * 2}
    )
    inside = head if stripped and masked else np.ones_like(head)
    prepared = prepare(*read_channels(files, reader=plan.reader, pool=pool), plan, pool=pool).image
    for channel, image in zip(channels, prepared, strict=True):
        lower, upper = np.percentile(channel[inside], (0.5, 99.5))
        values = np.clip(channel, lower, upper) if PERCENTILE[scheme] else channel
        scaled = np.where(inside, (values.astype(np.float64) - lower) / (upper - lower), 0)
        np.testing.assert_allclose(image, scaled.astype(np.float32).transpose(2, 1, 0), rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(stock(files, plan, manager, label)[0], prepared, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 5.0])
def test_a_training_case_that_cannot_be_normalised_stops_nnunets_preprocessing(make_plan, tmp_path, value):
    rng = np.random.default_rng(0)
    files, label, channels, head = write_head(tmp_path, rng, stripped=True)
    channel = channels[1]
    if np.isfinite(value):
        channel[...] = value * head
    else:
        channel[tuple(rng.choice(np.argwhere(head)))] = value
    write_volume(files[1], Volume(channel, np.eye(4)))
    plan, manager = make_plan(
        configuration={
            "normalization_schemes": ["PercentileTo01Normalization"] * 2,
            "use_mask_for_norm": [True, True],
        }
    )
    with pytest.raises(SGNetError, match="is blank" if np.isfinite(value) else "NaN or infinite"):
        stock(files, plan, manager, label)


@pytest.mark.parametrize("density", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_holes_are_filled_as_scipy_fills_them(density):
    mask = np.random.default_rng(0).random((12, 13, 14)) < density
    np.testing.assert_array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))


def test_shape_is_that_of_nnunet():
    rng = np.random.default_rng(0)
    for _ in range(200):
        shape, old, new = rng.integers(1, 300, 3), rng.uniform(0.2, 6, 3), rng.uniform(0.2, 6, 3)
        assert list(new_shape(tuple(shape), old, new)) == list(compute_new_shape(shape, old, new))


LENGTHS = st.tuples(*[st.integers(1, 24)] * 3)


@given(LENGTHS, LENGTHS, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_resampling_agrees_with_pytorch(old, new, seed):
    channel = np.random.default_rng(seed).random(old, dtype=np.float32)
    expected = functional.interpolate(torch.from_numpy(channel)[None, None], new, mode="trilinear")
    np.testing.assert_allclose(
        resample(channel, grid_weights(old, new)), expected[0, 0].numpy(), rtol=0, atol=1e-6
    )


def test_same_grid_gives_the_same_values():
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    np.testing.assert_array_equal(resample(channel, grid_weights((5, 6, 7), (5, 6, 7))), channel)


@pytest.mark.parametrize("new", [(5, 6, 7), (9, 6, 4), (3, 11, 15)])
def test_box_is_a_part_of_the_whole(new):
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    weights = grid_weights((5, 6, 7), new)
    box = (slice(1, 3), slice(2, 6), slice(1, 4))
    part = resample(channel, tuple(axis.part(s) for axis, s in zip(weights, box, strict=True)))
    np.testing.assert_array_equal(part, resample(channel, weights)[box])


def test_result_goes_where_it_is_asked_for():
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    out = np.empty((8, 3, 9), dtype=np.float32)
    assert resample(channel, grid_weights((5, 6, 7), (8, 3, 9)), out=out) is out
