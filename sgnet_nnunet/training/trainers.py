"""The trainers nnU-Net is asked for by name: SG-Net and the networks it is compared with."""

from collections.abc import Callable
from functools import partial

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.baselines import build_attention_unet, build_unet
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.base_trainer import RecipeTrainer
from sgnet_nnunet.training.notebook_trainer import NotebookRecipe
from sgnet_nnunet.training.sgnet_trainer import GatedTrainer


class SGNetTrainer(GatedTrainer):
    """Train the SG-Net that the plan describes.

    Attributes:
        gate: Name of the gate to build in place of the plan's, with its default arguments; None for
            the plan's.
        deep_supervision: Whether to supervise the coarser decoder levels too; None for the plan's
            choice.
    """

    gate: str | None = None
    deep_supervision: bool | None = None

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,  # noqa: ARG003
    ) -> nn.Module:
        """Build the plan's network.

        Raises:
            SGNetError: If the plan describes another network.
        """
        planned = configuration_manager.network_arch_class_name
        if planned != f"{SGNet.__module__}.{SGNet.__name__}":
            msg = (
                f"plan {plans_manager.plans_name}: describes the network {planned}, not SG-Net; make a plan "
                "with `nnUNetv2_plan_experiment -d DATASET -pl SGNetPlanner` or name one with `-p`"
            )
            raise SGNetError(msg)
        arguments = configuration_manager.network_arch_init_kwargs
        if cls.gate is not None:
            arguments = {**arguments, "gate": cls.gate, "gate_kwargs": {}}
        if cls.deep_supervision is not None:
            arguments = {**arguments, "deep_supervision": cls.deep_supervision}
        return get_network_from_plans(
            planned,
            arguments,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=False,
        )


class SGNetSkipGateTrainer(SGNetTrainer):
    """Train SG-Net with straight-through gates on the skip connections, the gate first tried."""

    gate = "straight_through"


class SGNetSoftGateTrainer(SGNetTrainer):
    """Train SG-Net with the skip gates' scores as soft weights: the same places, nothing shut out."""

    gate = "soft"


class SGNetNoGateTrainer(SGNetTrainer):
    """Train SG-Net without a gate: the network the author released."""

    gate = "none"


class SGNetDeepSupervisionTrainer(SGNetTrainer):
    """Train the SG-Net that the plan describes with heads on its coarser decoder levels as well."""

    deep_supervision = True


class SGNetNotebookTrainer(NotebookRecipe, SGNetNoGateTrainer):
    """Train the released network by the released notebook's recipe, to reproduce the SG-Net table."""


class RivalTrainer(RecipeTrainer):
    """Train a network that takes nothing from the plan but the channels.

    Attributes:
        build_network: Builds the network from its input channels and output heads.
    """

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


class UNetTrainer(RivalTrainer):
    """Train MONAI's U-Net, the Standard U-Net of the SG-Net table."""

    build_network = staticmethod(build_unet)


class ResUNetTrainer(RivalTrainer):
    """Train MONAI's U-Net with residual units, the ResU-Net of the SG-Net table."""

    build_network = staticmethod(partial(build_unet, residual_units=2))


class AttentionUNetTrainer(RivalTrainer):
    """Train MONAI's Attention U-Net."""

    build_network = staticmethod(build_attention_unet)
