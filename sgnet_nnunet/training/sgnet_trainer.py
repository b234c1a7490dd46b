"""Training of a network with gates: their supervision, their warm-up and an eye on what they shut out."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import GatedOutput, SGNet
from sgnet_nnunet.training.base_trainer import BaseTrainer
from sgnet_nnunet.training.gate_monitor import (
    GateCounts,
    GateLogger,
    count_gates,
    measure_gates,
    sum_counts,
    warnings_of,
    write_gates,
)
from sgnet_nnunet.training.losses import GatedLoss, GateSupervision, any_foreground


class GatedTrainer(BaseTrainer):
    """The recipe for an `SGNet`, whatever its gates.

    The gates travel beside the logits where nnU-Net expects the outputs of deep supervision, so
    that its training and validation steps serve as they are.
    """

    network: nn.Module

    USES_DEEP_SUPERVISION = True
    _counts: GateCounts | None = None

    @cached_property
    def supervision(self) -> GateSupervision:
        """How the plan wants its gates trained; the defaults where it does not say.

        Raises:
            SGNetError: If the plan names something unknown or out of range.
        """
        planned = self.configuration_manager.configuration.get("gate_supervision", {})
        try:
            return GateSupervision(**planned)
        except (TypeError, ValueError) as error:
            raise SGNetError(
                f"plan {self.plans_manager.plans_name}: cannot train gates by gate_supervision={planned}: "
                f"{error}"
            ) from error

    @property
    def sgnet(self) -> SGNet:
        """The network without what nnU-Net wraps it in."""
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)  # type: ignore[arg-type]

    def initialize(self) -> None:
        """Build the network and all that hangs on it.

        Raises:
            SGNetError: If the plan was made for labels and the data set has regions, or the reverse.
        """
        super().initialize()
        has_regions = self.label_manager.has_regions
        if self.sgnet.has_hard_gates and self.sgnet.background_head == has_regions:
            raise SGNetError(
                f"plan {self.plans_manager.plans_name}: has background_head={self.sgnet.background_head}, "
                f"but the data set's labels are {'' if has_regions else 'not '}regions; plan it anew"
            )
        self.logger.local_logger = GateLogger(self.sgnet.gate_names, verbose=self.logger.local_logger.verbose)

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        return [[0.5**level] * 3 for level in range(1 + len(self.sgnet.auxiliary_heads))]

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Have the network return its gates, or the logits alone."""
        self.sgnet.return_gates = enabled

    def _build_loss(self) -> nn.Module:
        return GatedLoss(self.build_segmentation_loss(), self.supervision)

    @property
    def warm_up_epochs(self) -> int:
        """Number of epochs that the gates are held open for."""
        return math.ceil(self.supervision.warm_up * self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """Start an epoch; hold the gates open while warming up, and then let go of them."""
        super().on_train_epoch_start()
        warming_up = self.current_epoch < self.warm_up_epochs
        self.sgnet.bypass_gates(warming_up)
        if not warming_up:
            self.sgnet.freeze_gated_norms()
        if self.current_epoch == self.warm_up_epochs:
            # The best checkpoint is to be one whose gates decide.
            self._best_ema = None

    def on_train_end(self) -> None:
        """End as nnU-Net does, and warn if the gates never got to decide."""
        super().on_train_end()
        if self.current_epoch <= self.warm_up_epochs and self.sgnet.has_hard_gates:
            self.print_to_log_file(
                f"WARNING: the training ended after {self.current_epoch} epochs, while its gates were held "
                f"open for the first {self.warm_up_epochs}: this network shuts nothing out. Train longer, or "
                "plan with a smaller `warm_up`."
            )

    def on_validation_epoch_start(self) -> None:
        """Start to count what the gates admit."""
        super().on_validation_epoch_start()
        self._counts = None
        self.loss.observer = self._observe

    def _observe(self, output: GatedOutput, target: torch.Tensor) -> None:
        if not output.decisions:
            return
        foreground, _ = any_foreground(
            target,
            regions=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
        )
        counts = count_gates([decision.mask for decision in output.decisions], foreground)
        self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the pseudo Dice and the gates' figures; warn where a gate shuts out lesions."""
        super().on_validation_epoch_end(val_outputs)
        self.loss.observer = None
        counts = self._gathered_counts()
        names = self.sgnet.gate_names
        unknown = [math.nan] * len(names)
        figures = {
            "gate_open_fraction": counts.open_fraction if counts else unknown,
            "gate_admitted_voxels": counts.admitted_voxel_share if counts else unknown,
            "gate_admitted_lesions": counts.admitted_lesion_share if counts else unknown,
        }
        for key, value in figures.items():
            self.logger.log(key, value, self.current_epoch)
        if counts:
            self.print_to_log_file(_in_words(counts, names))
            for warning in warnings_of(counts, names):
                self.print_to_log_file(warning)

    def _gathered_counts(self) -> GateCounts | None:
        if self._counts is None or not self.is_ddp:
            return self._counts
        gathered: list[GateCounts] = [self._counts] * dist.get_world_size()
        dist.all_gather_object(gathered, self._counts)
        return sum_counts(gathered)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does, and write what the gates admit to `gates.json` beside its summary."""
        super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0 and self.sgnet.gate_names:
            cases = {case: self._measure(case) for case in self.do_split()[1]}
            write_gates(Path(self.output_folder, "validation", "gates.json"), cases, self.sgnet.gate_names)
            total = sum_counts(cases.values())
            self.print_to_log_file(_in_words(total, self.sgnet.gate_names))
            for warning in warnings_of(total, self.sgnet.gate_names):
                self.print_to_log_file(warning)

    def _measure(self, case: str) -> GateCounts:
        dataset = self.dataset_class(self.preprocessed_dataset_folder, [case])
        data, segmentation, _, _ = dataset.load_case(case)
        foreground, _ = any_foreground(
            torch.from_numpy(segmentation[:]).long()[None],
            regions=False,
            ignore_label=self.label_manager.ignore_label,
        )
        return measure_gates(
            self.sgnet,
            torch.from_numpy(data[:]).to(self.device),
            foreground[0, 0],
            self.configuration_manager.patch_size,
        )


def _in_words(counts: GateCounts, names: list[str]) -> str:
    figures = "; ".join(
        f"{name}: open {opened:.1%}, admits {voxels:.2%} of lesion voxels and {lesions:.2%} of lesions"
        for name, opened, voxels, lesions in zip(
            names,
            counts.open_fraction,
            counts.admitted_voxel_share,
            counts.admitted_lesion_share,
            strict=True,
        )
    )
    return f"Gates: {figures}"


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
