"""The study times each network's step on targets as its own loss takes them."""

from types import SimpleNamespace

import torch
from study.speed import _targets

from sgnet_nnunet.training.trainers import SGNetTrainer


def trainer_with(*, side_heads: int, enable_deep_supervision: bool = True):
    trainer = SimpleNamespace(
        enable_deep_supervision=enable_deep_supervision, sgnet=SimpleNamespace(side_heads=range(side_heads))
    )
    trainer._get_deep_supervision_scales = lambda: SGNetTrainer._get_deep_supervision_scales(trainer)
    return trainer


def test_each_scale_of_a_deep_supervision_has_its_target():
    target = torch.zeros(2, 1, 8, 16, 16, dtype=torch.int16)
    target[:, :, :4] = 1
    targets = _targets(trainer_with(side_heads=2), target)
    assert [tuple(t.shape[2:]) for t in targets] == [(8, 16, 16), (4, 8, 8), (2, 4, 4)]
    assert all(t.dtype == torch.int16 and t.float().mean() == 0.5 for t in targets)


def test_a_gated_network_without_side_heads_has_a_list_of_one():
    target = torch.zeros(2, 1, 8, 16, 16, dtype=torch.int16)
    assert [t.shape for t in _targets(trainer_with(side_heads=0), target)] == [target.shape]


def test_a_loss_of_one_target_is_given_the_target_itself():
    target = torch.zeros(2, 1, 8, 16, 16, dtype=torch.int16)
    assert _targets(trainer_with(side_heads=0, enable_deep_supervision=False), target) is target
