from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sgnet_nnunet.inference.engines import ChunkedEngine, average_of, gates_of_last
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, supports_bf16
from sgnet_nnunet.inference.sparse import (
    BlockSparseEngine,
    Workspace,
    block_starts,
    copy_window,
    dilate,
    open_block_starts,
    repeated,
    write_block,
)
from sgnet_nnunet.inference.torch_engines import TorchRuntime, stage_models, stages_of

SHAPE = (21, 40, 36)


def open_share(network, image):
    network.return_gates = True
    padding = [(0, 0), *((0, -length % network.divisor) for length in image.shape[1:])]
    with torch.inference_mode():
        decisions = network(torch.from_numpy(np.pad(image, padding))[None]).decisions
    network.return_gates = False
    return [float(decision.mask.float().mean()) for decision in decisions]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gate": "none"},
        {"gate": "straight_through"},
        {"gate": "soft"},
        {"gated_levels": [0, 1]},
        {"gated_levels": [1, 2]},
        {"heads": 3, "background_head": False},
        {"gate_kwargs": {"groups": 2, "combine": "mean", "dilation": 2, "nested": False, "threshold": 0.3}},
        {"gate_kwargs": {"groups": 1, "dilation": 0}},
        {"features": (4, 6, 8)},
        {"features": (4, 6, 8, 8, 8)},
        {"deep_supervision": True},
    ],
    ids=str,
)
def test_every_block_run_gives_the_networks_own_logits(
    make_network, rng, options, smooth_image, dense_logits, torch_runtime
):
    network = make_network(**options)
    image = smooth_image(rng, SHAPE)
    engine = BlockSparseEngine(network.geometry, torch_runtime(network), skip=False)
    logits = engine.logits(image)
    assert logits.shape == (network.head.out_channels, *SHAPE)
    np.testing.assert_allclose(logits, dense_logits(network, image), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_leaving_out_closed_blocks_changes_no_bit(
    make_network, rng, share, seed, smooth_image, torch_runtime
):
    network = make_network(seed=seed, open_share=share)
    image = smooth_image(rng, (40, 48, 64))
    image[:, :, :, 40:] = 0
    assert 0 < open_share(network, image)[-1] < 1
    sparse, whole = (
        BlockSparseEngine(network.geometry, torch_runtime(network), skip=skip).logits(image)
        for skip in (True, False)
    )
    assert np.array_equal(sparse, whole)


@pytest.mark.slow
def test_openvino_gives_pytorchs_logits_and_leaves_out_no_bit(make_network, rng, smooth_image, dense_logits):
    network = make_network()
    image = smooth_image(rng, SHAPE)
    models = stage_models(network)
    sparse, whole = (
        BlockSparseEngine(network.geometry, OpenVINORuntime(models, threads=2), skip=skip).logits(image)
        for skip in (True, False)
    )
    assert np.array_equal(sparse, whole)
    np.testing.assert_allclose(whole, dense_logits(network, image), atol=1e-3)


@pytest.mark.slow
def test_bf16_is_near_and_leaves_out_no_bit(make_network, rng, smooth_image, dense_logits):
    if not supports_bf16():
        pytest.skip("this CPU has no bf16 instructions")
    network = make_network()
    image = smooth_image(rng, SHAPE)
    runtime = OpenVINORuntime(stage_models(network), precision="bf16", threads=2)
    sparse, whole = (
        BlockSparseEngine(network.geometry, runtime, skip=skip).logits(image) for skip in (True, False)
    )
    assert np.array_equal(sparse, whole)
    difference = np.abs(whole - dense_logits(network, image))
    assert 1e-6 < np.median(difference[difference > 0]) < 0.1


def test_closed_blocks_and_known_background_are_not_run(gated, rng, smooth_image):
    geometry, runtime = gated
    image = smooth_image(rng, (40, 48, 64))
    image[:, :, :, 16:] = 0
    every, sparse = Counting(runtime), Counting(runtime)
    BlockSparseEngine(geometry, every, skip=False).logits(image)
    engine = BlockSparseEngine(geometry, sparse, skip=True)
    engine.logits(image)
    assert sparse.calls["up0"] < every.calls["up0"]
    sparse.calls.clear()
    engine.logits(image)
    assert sparse.calls["stem"] < every.calls["stem"]


def test_gates_closed_over_everything_leave_the_background(make_network, rng, smooth_image, torch_runtime):
    network = make_network()
    for gate in (block.hard_gate for block in network.decoder):
        gate.score.bias.data.fill_(-100)
    logits = BlockSparseEngine(network.geometry, torch_runtime(network), skip=True).logits(
        smooth_image(rng, SHAPE)
    )
    assert np.array_equal(np.unique(logits[0]), [0])
    assert np.array_equal(np.unique(logits[1]), [-8])


def test_bypassed_gates_are_open_everywhere(make_network, rng, smooth_image, dense_logits, torch_runtime):
    network = make_network(open_share=0.05)
    network.bypass_gates(True)
    image = smooth_image(rng, SHAPE)
    logits = BlockSparseEngine(network.geometry, torch_runtime(network), skip=True).logits(image)
    np.testing.assert_allclose(logits, dense_logits(network, image), atol=1e-4)


@pytest.mark.parametrize("options", [{"gate": "none"}, {"gate_kwargs": {"groups": 2, "nested": False}}])
def test_network_without_nested_gates_cannot_be_run_sparsely(make_network, options, torch_runtime):
    network = make_network(**options)
    with pytest.raises(ValueError, match="only a network with a nested gate"):
        BlockSparseEngine(network.geometry, torch_runtime(network), skip=True)


@pytest.mark.parametrize("skip", [True, False])
def test_gates_are_those_that_the_network_decides(make_network, rng, smooth_image, torch_runtime, skip):
    network = make_network()
    image = smooth_image(rng, (32, 40, 24))
    engine = BlockSparseEngine(network.geometry, torch_runtime(network), skip=skip)
    assert gates_of_last(engine) == {}
    chunked = ChunkedEngine(engine)
    chunked.logits(image)
    network.return_gates = True
    with torch.inference_mode():
        decisions = network(torch.from_numpy(image[None])).decisions
    found = gates_of_last(chunked)
    assert list(found) == network.gate_names
    for mask, decision in zip(found.values(), decisions, strict=True):
        # Scores at the threshold may round to either side.
        assert np.mean(mask != decision.mask[0, 0].numpy()) < 1e-3
    assert 0 < found[network.gate_names[-1]].mean() < 1
    for scores, decision in zip(gates_of_last(chunked, scores=True).values(), decisions, strict=True):
        known = np.isfinite(scores)
        assert known[decision.mask[0, 0].numpy()].mean() > 1 - 1e-3
        np.testing.assert_allclose(scores[known], decision.score[0, 0].numpy()[known], atol=1e-4)


def test_ensemble_has_the_share_of_its_members_gates(make_network, rng, smooth_image, torch_runtime):
    members = [
        BlockSparseEngine(network.geometry, torch_runtime(network), skip=True)
        for network in (make_network(seed=0), make_network(seed=1))
    ]
    ensemble = average_of(members)
    ensemble.logits(smooth_image(rng, (32, 32, 32)))
    for name, shares in gates_of_last(ensemble).items():
        np.testing.assert_allclose(shares, sum(member.gates[name] for member in members) / 2)
    chunked = ChunkedEngine(members[0], free_memory=lambda _: 1e15)
    chunked.was_whole = False
    assert gates_of_last(chunked) == {}


def test_an_engine_keeps_nothing_of_the_image_before(gated, rng, smooth_image):
    geometry, runtime = gated
    engine = BlockSparseEngine(geometry, runtime, skip=True)
    first, second = smooth_image(rng, (24, 40, 36)), smooth_image(rng, (33, 20, 50))
    expected = engine.logits(first)
    engine.logits(second)
    assert np.array_equal(engine.logits(first), expected)


@pytest.mark.parametrize("deep_voxels", [1, 300])
def test_deeper_levels_in_slabs_are_those_of_the_whole(gated, rng, monkeypatch, deep_voxels, smooth_image):
    geometry, runtime = gated
    image = smooth_image(rng, (72, 24, 24))
    whole = BlockSparseEngine(geometry, runtime, skip=True).logits(image)
    monkeypatch.setattr("sgnet_nnunet.inference.sparse.DEEP_VOXELS", deep_voxels)
    slabs = BlockSparseEngine(geometry, runtime, skip=True).logits(image)
    np.testing.assert_allclose(slabs, whole, atol=1e-5)


class Counting:
    """A runtime that counts the calls of each stage."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.threads = 1
        self.session = runtime.session
        self.calls = {}

    def block_stage(self, name):
        return self._counted(name, self.runtime.block_stage(name))

    def whole_stage(self, name):
        return self._counted(name, self.runtime.whole_stage(name))

    def _counted(self, name, stage):
        def run(*inputs):
            self.calls[name] = self.calls.get(name, 0) + 1
            return stage(*inputs)

        return run


@pytest.mark.slow
def test_chunks_with_their_margin_give_the_logits_of_the_whole_image(gated, rng, smooth_image):
    engine = BlockSparseEngine(*gated, skip=True)
    image = smooth_image(rng, (160, 24, 24))
    whole = engine.logits(image)
    budget = engine.memory.fixed + 4 * 2 * 160 * 576 + 96 * (engine.memory.per_voxel + 4 * 2) * 576
    chunked = ChunkedEngine(engine, free_memory=lambda _: budget)
    assert chunked._thickness(image.shape) == 16
    np.testing.assert_allclose(chunked.logits(image), whole, atol=1e-5)
    assert np.array_equal(chunked.logits(image).argmax(0), whole.argmax(0))


def test_nothing_beyond_the_margin_changes_a_logit(gated, rng, smooth_image):
    engine = BlockSparseEngine(*gated, skip=True)
    reach = 39  # rounded up to the margin of 40
    middle = slice(40, 48)
    image = smooth_image(rng, (96, 24, 24))
    changed = image.copy()
    changed[:, : middle.start - reach] = 0
    changed[:, middle.stop + reach :] = 1
    logits = engine.logits(image)
    assert not np.array_equal(engine.logits(changed), logits)
    np.testing.assert_allclose(engine.logits(changed)[:, middle], logits[:, middle], atol=1e-6)


def test_pytorch_keeps_its_number_of_threads(make_network, rng, smooth_image):
    network = make_network()
    engine = BlockSparseEngine(network.geometry, TorchRuntime(stages_of(network), threads=3), skip=True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine.logits(smooth_image(rng, SHAPE))
        with ThreadPoolExecutor(1) as pool:
            assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (2, 2)
    finally:
        torch.set_num_threads(before)


sizes = st.tuples(*[st.integers(1, 6)] * 3)
starts = st.tuples(*[st.integers(-7, 7)] * 3)


@given(extent=sizes, start=starts, size=sizes)
def test_window_holds_the_volume_and_zeros_outside_it(extent, start, size):
    volume = np.arange(1, 1 + np.prod(extent) * 2).reshape(*extent, 2)
    padded = np.pad(volume, [(7, 14)] * 3 + [(0, 0)])
    window = np.full((*size, 2), -1)
    copy_window(volume, start, window)
    z, y, x = (slice(first + 7, first + 7 + length) for first, length in zip(start, size, strict=True))
    assert np.array_equal(window, padded[z, y, x])


def test_blocks_cover_a_volume_that_they_reach_beyond():
    covered = np.zeros((5, 6, 9, 1), dtype=np.float32)
    for start in block_starts((5, 6, 9), (2, 4, 4)):
        write_block(covered, start, np.ones((2, 4, 4, 1), dtype=np.float32))
    assert covered.all()


def test_open_blocks_are_those_that_hold_a_voxel(rng):
    mask = rng.random((9, 10, 13)) > 0.97
    block = (4, 3, 5)
    expected = {
        tuple(int(i // b) * b for i, b in zip(voxel, block, strict=True)) for voxel in np.argwhere(mask)
    }
    found = open_block_starts(mask, block)
    assert set(found) == expected
    assert len(found) == len(expected) < len(block_starts(mask.shape, block))
    assert open_block_starts(np.zeros((4, 4, 4), dtype=bool), block) == []


@pytest.mark.parametrize("voxels", [0, 1, 3])
def test_dilation_is_that_of_a_cube_and_stays_inside(rng, voxels):
    mask = rng.random((8, 2, 11)) > 0.95
    expected = ndimage.maximum_filter(mask, 2 * voxels + 1, mode="constant")
    before = mask.copy()
    assert np.array_equal(dilate(mask, voxels), expected)
    assert np.array_equal(mask, before)


def test_repeated_mask_has_twice_the_resolution():
    mask = np.array([[[True, False]]])
    assert np.array_equal(repeated(mask), np.array([[[1, 1, 0, 0]] * 2] * 2, dtype=bool))


def test_memory_is_used_again_for_what_fits():
    workspace = Workspace()
    first = workspace.take("a", (4, 5))
    first[:] = 7
    again = workspace.take("a", (2, 3))
    assert again.shape == (2, 3)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(again, workspace.take("b", (2, 3)))


def test_larger_array_is_new_memory():
    workspace = Workspace()
    first = workspace.take("a", (2, 3))
    larger = workspace.take("a", (4, 5))
    assert larger.shape == (4, 5)
    assert not np.shares_memory(first, larger)


def test_more_than_the_limit_is_given_back():
    workspace = Workspace()
    held = workspace.take("a", (10,))
    workspace.trim(40)
    assert np.shares_memory(held, workspace.take("a", (10,)))
    workspace.trim(39)
    assert not np.shares_memory(held, workspace.take("a", (10,)))
