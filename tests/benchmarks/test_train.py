"""The study's training: what it changes of a trainer."""

from types import SimpleNamespace

import torch
from study.train import _use_bfloat16


def test_each_step_runs_in_bfloat16_with_the_weights_of_its_time():
    layer = torch.nn.Linear(2, 1, bias=False)
    image = torch.ones(1, 2)
    trainer = SimpleNamespace(train_step=layer, validation_step=layer)
    _use_bfloat16(trainer)
    outputs = []
    for weight in (1.0, 2.0):
        torch.nn.init.constant_(layer.weight, weight)
        outputs.append(trainer.train_step(image))
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    assert [output.item() for output in outputs] == [2.0, 4.0]
    assert not torch.is_autocast_enabled("cpu")
