"""Engines made of others: ensembles of folds, mirrored images, chunks along z within a memory budget."""

from itertools import product

import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import engines
from sgnet_nnunet.inference.engines import ChunkedEngine, MemoryNeed, Mirrored, free_host_memory
from sgnet_nnunet.inference.exported import open_exported
from sgnet_nnunet.inference.torch_engines import build_engine


class BoxSum:
    """An engine whose logits are sums over 5 x 1 x 1 voxels; `limit` planes are all that fit at once."""

    channels, heads, divisor, margin = 1, 1, 4, 4
    memory = MemoryNeed(fixed=1000, per_voxel=10, per_logit=4)

    def __init__(self, limit=10**9):
        self.limit = limit
        self.planes = []

    def logits(self, image):
        self.planes.append(image.shape[1])
        if image.shape[1] > self.limit:
            raise MemoryError("CUDA out of memory")
        padded = np.pad(image, [(0, 0), (2, 2), (0, 0), (0, 0)])
        return sum(padded[:, shift : shift + image.shape[1]] for shift in range(5)).astype(np.float32)


def volume(rng, planes=50):
    return rng.random((1, planes, 3, 8), dtype=np.float32)


def budget(planes):
    """Return the bytes that leave room for chunks of so many planes, margins included."""
    return 1000 + 4 * 50 * 24 + planes * (10 * 4 * 8 + 4 * 24)


def test_image_that_fits_is_run_at_once(rng):
    engine = BoxSum()
    ChunkedEngine(engine, free_memory=lambda _: 10**9).logits(volume(rng))
    assert engine.planes == [50]


@pytest.mark.parametrize("thickness", [4, 12])
def test_chunks_within_the_budget_give_the_logits_of_the_whole_image(rng, thickness):
    engine, image = BoxSum(), volume(rng)
    chunked = ChunkedEngine(engine, free_memory=lambda _: budget(thickness + 8))
    np.testing.assert_array_equal(chunked.logits(image), BoxSum().logits(image))
    assert len(engine.planes) == -(-50 // thickness)
    assert max(engine.planes) == thickness + 8


def test_budget_that_cannot_be_met_names_what_is_short(rng):
    chunked = ChunkedEngine(BoxSum(), free_memory=lambda _: budget(11))
    with pytest.raises(
        SGNetError, match=r"50 x 3 x 8 voxels needs 0\.0 GB more than the budget leaves; raise"
    ):
        chunked.logits(volume(rng))


def test_memory_that_runs_out_all_the_same_makes_chunks_thinner(rng, caplog):
    engine, image = BoxSum(limit=20), volume(rng)
    chunked = ChunkedEngine(engine, free_memory=lambda _: 10**9)
    np.testing.assert_array_equal(chunked.logits(image), BoxSum().logits(image))
    # 50 planes at once, 24 with their margins, 12 with theirs.
    assert engine.planes[:3] == [50, 28, 16]
    assert "out of memory; continuing with chunks of 12 voxels along z" in caplog.text


def test_memory_that_does_not_suffice_for_any_chunk_ends_in_one_line(rng):
    chunked = ChunkedEngine(BoxSum(limit=3), free_memory=lambda _: 10**9)
    with pytest.raises(SGNetError, match="50 x 3 x 8 voxels: CUDA out of memory; raise --max-memory"):
        chunked.logits(volume(rng))


def test_budget_counts_what_the_process_has_taken(monkeypatch):
    monkeypatch.setattr(engines.psutil, "virtual_memory", lambda: type("M", (), {"available": 10**12}))
    taken = engines.psutil.Process().memory_info().rss
    assert free_host_memory(10**10) == pytest.approx(10**10 - taken, rel=0.05)
    assert free_host_memory(None) == 10**12


class Shifted:
    """A network that is anything but symmetric."""

    channels, heads = 2, 2

    def __init__(self):
        self.calls = 0

    def logits(self, image):
        assert image.flags.c_contiguous
        self.calls += 1
        ramp = np.arange(image[0].size, dtype=np.float32).reshape(image.shape[1:])
        return np.stack([image[0] * ramp, np.roll(image[1], 1, axis=0) + ramp])


@pytest.fixture
def image():
    return np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)


def test_logits_are_the_mean_over_all_flips(image):
    flips = [
        [axis for axis, wanted in zip((1, 2, 3), choice, strict=True) if wanted]
        for choice in product((False, True), repeat=3)
    ]
    expected = np.mean([np.flip(Shifted().logits(np.flip(image, f).copy()), f) for f in flips], axis=0)
    engine = Shifted()
    np.testing.assert_allclose(Mirrored(engine, (0, 1, 2)).logits(image), expected, rtol=1e-5)
    assert engine.calls == 8


def test_only_the_allowed_axes_are_mirrored(image):
    engine = Shifted()
    flipped = engine.logits(image[:, :, ::-1].copy())[:, :, ::-1]
    np.testing.assert_allclose(
        Mirrored(engine, (1,)).logits(image), (engine.logits(image) + flipped) / 2, rtol=1e-6
    )


def test_image_and_the_engines_channels_stay(image):
    before = image.copy()
    mirrored = Mirrored(Shifted(), (0,))
    mirrored.logits(image)
    np.testing.assert_array_equal(image, before)
    assert (mirrored.channels, mirrored.heads) == (2, 2)


SEEDS = (0, 1, 2)
KINDS = {
    # An SG-Net of two levels is too shallow for blocks.
    "dense, torch": {"features": (4, 8), "requested": "whole", "runtime": "torch"},
    "dense, OpenVINO": {"features": (4, 8), "requested": "whole", "runtime": "openvino"},
    "whole, torch": {"requested": "whole", "runtime": "torch"},
    "whole, OpenVINO": {"requested": "whole", "runtime": "openvino"},
    "sparse, torch": {"requested": "sparse", "runtime": "torch"},
    "sparse, OpenVINO": {"requested": "sparse", "runtime": "openvino"},
}


def built(networks, options):
    weights = [network.state_dict() for network in networks]
    return build_engine(networks[0], weights, device=torch.device("cpu"), **options)


@pytest.fixture(params=[*KINDS, "exported whole", "exported sparse"])
def members_and_ensemble(request, make_network, write_export, tmp_path):
    """Return an engine of each fold, and one of all."""
    if request.param.startswith("exported"):
        folder = write_export(tmp_path, {str(seed): make_network(seed=seed) for seed in SEEDS})
        engine = request.param.removeprefix("exported ")
        members = [open_exported(folder, folds=(str(seed),), engine=engine) for seed in SEEDS]
        return members, open_exported(folder, engine=engine)
    options = dict(KINDS[request.param])
    features = options.pop("features", (4, 8, 8, 16))
    networks = [make_network(seed=seed, features=features) for seed in SEEDS]
    return [built([network], options) for network in networks], built(networks, options)


@pytest.mark.slow
def test_ensemble_of_folds_is_the_mean_of_its_members(members_and_ensemble, smooth_image, rng):
    members, ensemble = members_and_ensemble
    image = smooth_image(rng, (16, 24, 20))
    # The ensemble goes first and last: members must not change each other's weights, nor keep buffers.
    first = ensemble.logits(image).copy()
    singles = [member.logits(image).copy() for member in members]
    np.testing.assert_allclose(first, np.mean(singles, axis=0), atol=1e-5)
    np.testing.assert_array_equal(ensemble.logits(image), first)
    for single in singles:
        assert np.abs(first - single).max() > 0.01
