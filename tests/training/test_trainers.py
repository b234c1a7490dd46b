import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import SGNet

NAMES = ["SGNetTrainer", "UNetTrainer", "AttentionUNetTrainer", "ResUNetTrainer"]


@pytest.mark.parametrize("name", NAMES)
def test_trains_validates_and_saves(make_trainer, name):
    trainer = make_trainer(name)
    trainer.run_training()
    assert len(trainer.logger.get_value("train_losses", step=None)) == 2
    assert trainer.output_folder_base.endswith(f"{name}__nnUNetPlans__3d_fullres")
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert checkpoint["trainer_name"] == name


@pytest.mark.parametrize(
    ("kind", "heads"), [("labels", 2), ("regions", 2), ("three labels", 3), ("ignore", 2)]
)
def test_every_kind_of_label_trains(make_trainer, kind, heads):
    trainer = make_trainer(kind=kind)
    trainer.run_training()
    assert trainer.network.head.out_channels == heads
    assert all(map(torch.isfinite, map(torch.tensor, trainer.logger.get_value("train_losses", step=None))))


def test_sgnet_trainer_builds_the_gate_that_the_plan_names(make_trainer):
    trainer = make_trainer()
    kwargs = trainer.configuration_manager.network_arch_init_kwargs
    kwargs["gate"], kwargs["gate_kwargs"] = "none", {}
    trainer.initialize()
    assert isinstance(trainer.network, SGNet)
    assert sum(p.numel() for p in trainer.network.parameters()) == 668_673 + 17  # a second head


def test_plan_of_another_network_is_refused_with_the_command_that_mends_it(make_trainer):
    trainer = make_trainer()
    trainer.configuration_manager.configuration["architecture"]["network_class_name"] = "some.PlainConvUNet"
    with pytest.raises(SGNetError, match=r"network some\.PlainConvUNet, not SG-Net; .*-pl SGNetPlanner"):
        trainer.initialize()
