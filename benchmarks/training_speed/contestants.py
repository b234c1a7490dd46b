"""The trainings that are compared, made as nnU-Net makes them."""

from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sgnet_nnunet.training.settings import Precision
from training_speed.data import DATASET, DEFAULT_PLANS


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A training.

    Attributes:
        name: What the tables call it.
        trainer: nnU-Net's `-tr`.
        plans: nnU-Net's `-p`.
        bfloat16: Whether it trains in bfloat16; on a CPU only.
        cpu_patches: Patches of a batch that a CPU computes at most; the times are scaled to the batch.
    """

    name: str
    trainer: str
    plans: str = "nnUNetPlans"
    bfloat16: bool = False
    cpu_patches: int | None = None


SG_NET = Contestant(name="SG-Net", trainer="SGNetTrainer")
BFLOAT16 = Contestant(name="SG-Net, bfloat16", trainer="SGNetTrainer", bfloat16=True)
NO_GATE = Contestant(name="SG-Net, no gate", trainer="SGNetNoGateTrainer")
DEFAULT = Contestant(name="nnU-Net's default", trainer="nnUNetTrainer", plans=DEFAULT_PLANS, cpu_patches=1)

LOADERS = (SG_NET, DEFAULT)
"""Those whose loading and augmentation differ."""


def steppers(device: torch.device, *, default: bool) -> tuple[Contestant, ...]:
    """Return those whose steps are compared on a device, with nnU-Net's default network or without."""
    return (
        SG_NET,
        *((BFLOAT16,) if device.type == "cpu" else ()),
        NO_GATE,
        *((DEFAULT,) if default else ()),
    )


def make_trainer(contestant: Contestant, device: torch.device) -> Any:  # noqa: ANN401
    """Return an initialised trainer, ready for a step."""
    trainer = get_trainer_from_args(
        DATASET, "3d_fullres", 0, contestant.trainer, contestant.plans, device=device
    )
    if contestant.bfloat16:
        trainer.precision = Precision(bfloat16=True)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    return trainer


def make_loader(trainer: Any, *, stock: bool = False) -> Any:  # noqa: ANN401
    """Return a trainer's loader of training batches, augmentation included.

    Args:
        trainer: An initialised trainer, in a process with `nnUNet_n_proc_DA=0`.
        stock: Whether to load as nnU-Net does, whatever the trainer does.
    """
    if not stock:
        return trainer.get_dataloaders()[0].data_loader
    trainer.get_training_transforms = nnUNetTrainer.get_training_transforms
    try:
        return nnUNetTrainer.get_dataloaders(trainer)[0].data_loader
    finally:
        del trainer.get_training_transforms
