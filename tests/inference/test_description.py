import json

from sgnet_nnunet.inference.sparse import Description, Gate, input_shapes
from sgnet_nnunet.inference.torch_engines import describe, example_inputs, stages_of


def gate(**options):
    return Gate(**{"score_threshold": 0.0, "dilation": 1, "nested": True, **options})


def description(*gates, features=(16, 32, 64, 128)):
    return Description(channels=2, heads=1, features=features, gates=gates, background=(-8.0,))


def test_margin_of_the_default_network():
    # 15 voxels of the encoder, 1 + 2 + 4 of the decoder, 2 + 4 + 8 of the gates: 36.
    assert description(gate(), gate(), gate()).margin == 40
    assert description(None, None, None).margin == 24
    assert description(gate(dilation=0), None, gate(dilation=2)).margin == 32


def test_only_nested_gates_at_every_level_let_blocks_be_left_out():
    assert description(gate(nested=False), gate(), gate()).can_skip
    assert not description(gate(), gate(nested=False), gate()).can_skip
    assert not description(gate(), None, gate()).can_skip


def test_description_survives_json(make_network):
    for options in ({}, {"gated_levels": [0, 2]}, {"heads": 3, "background_head": False}):
        written = describe(make_network(**options))
        assert Description.from_dict(json.loads(json.dumps(written.as_dict()))) == written


def test_stages_take_the_shapes_that_the_engine_calls_them_with(make_network):
    network = make_network()
    shapes = input_shapes(describe(network))
    assert set(shapes) == set(stages_of(network)) == set(example_inputs(describe(network)))
    for name, examples in example_inputs(describe(network)).items():
        assert [example.shape[-1] for example in examples] == [shape[-1] for shape in shapes[name]]
