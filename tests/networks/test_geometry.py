import json

import pytest
import torch
from msgspec import convert

from sgnet_nnunet.networks.geometry import GateGeometry, NetworkGeometry
from sgnet_nnunet.networks.sgnet import SGNet


def gate(**options):
    return GateGeometry(**{"score_threshold": 0.0, "dilation": 1, "nested": True, **options})


def geometry(*gates, features=(16, 32, 64, 128)):
    return NetworkGeometry(channels=2, heads=1, features=features, gates=gates, background=(-8.0,))


def test_margin_of_the_default_network():
    # The last voxel of a piece, 7, is reached from voxel 46: over voxels 4 of 1/2, 3 of 1/4, 2 of 1/8, each
    # with a gate's and a convolution's further voxel, and back.
    assert geometry(gate(), gate(), gate()).margin == 40
    assert geometry(None, None, None).margin == 24
    assert geometry(gate(dilation=0), None, gate(dilation=2)).margin == 32


@pytest.mark.parametrize("features", [(2, 2), (2, 2, 2)])
@pytest.mark.parametrize("dilation", [0, 1])
def test_nothing_beyond_the_margin_changes_a_logit(features, dilation):
    torch.manual_seed(0)
    network = SGNet(1, 1, features_per_stage=features, gate_kwargs={"groups": 1, "dilation": dilation})
    network.eval().double()
    for parameter in network.parameters():
        parameter.data.abs_()  # no ReLU ends a path
    for block in network.decoder:
        block.hard_gate.score.bias.data.fill_(-50.0)  # closed but where something bright reaches
    margin, divisor = network.margin, network.divisor
    piece = slice(margin + divisor, margin + 2 * divisor)
    changes = []
    for bright in range(margin + divisor):
        # Gates open around the piece, up to so many planes before it, and then one plane more is bright.
        images = torch.zeros(2, 1, 2 * margin + 3 * divisor, divisor, divisor, dtype=torch.float64)
        images[:, :, piece.start - bright : piece.stop] = 1e3
        images[1, :, piece.start - bright - 1] = 1e9
        with torch.inference_mode():
            logits = network(images)[:, :, piece]
        changes += [bright + 1] if (logits[0] != logits[1]).any() else []
    assert max(changes) <= margin
    if not dilation:
        assert max(changes) > margin - divisor


def test_only_nested_gates_at_every_level_let_blocks_be_left_out():
    assert geometry(gate(nested=False), gate(), gate()).can_skip
    assert not geometry(gate(), gate(nested=False), gate()).can_skip
    assert not geometry(gate(), None, gate()).can_skip


def test_geometry_survives_json():
    for options in ({}, {"gated_levels": [0, 2]}, {"heads": 3, "background_head": False}):
        written = SGNet(2, options.pop("heads", 2), **options).geometry
        assert convert(json.loads(json.dumps(written.as_dict())), NetworkGeometry) == written
