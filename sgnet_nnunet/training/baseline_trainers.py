"""Trainers of the three baselines of the SG-Net paper."""

from collections.abc import Callable
from functools import partial

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sgnet_nnunet.networks.baselines import build_attention_unet, build_unet
from sgnet_nnunet.training.base_trainer import BaseTrainer


class BaselineTrainer(BaseTrainer):
    """Train a network that depends on the channels of the plan only: its input channels and output heads."""

    build_network: Callable[[int, int], nn.Module]

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,  # noqa: ARG003
        configuration_manager: ConfigurationManager,  # noqa: ARG003
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,  # noqa: ARG003
    ) -> nn.Module:
        """Build the network."""
        return cls.build_network(num_input_channels, num_output_channels)


class BaselineUNetTrainer(BaselineTrainer):
    """Train MONAI's U-Net, the Standard U-Net of the SG-Net table."""

    build_network = staticmethod(build_unet)


class BaselineResUNetTrainer(BaselineTrainer):
    """Train MONAI's U-Net with residual units, the ResU-Net of the SG-Net table."""

    build_network = staticmethod(partial(build_unet, residual_units=2))


class BaselineAttentionUNetTrainer(BaselineTrainer):
    """Train MONAI's Attention U-Net."""

    build_network = staticmethod(build_attention_unet)
