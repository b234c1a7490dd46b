"""Trainers of SG-Net: loss and warm-up of the gates, gate statistics, validation by the inference engines."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray
from torch import distributed as dist
from torch import nn

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import read_json, write_text
from sgnet_nnunet.networks.gates import GateSupervision
from sgnet_nnunet.networks.sgnet import GatedOutput, SGNet
from sgnet_nnunet.nnunet import forget_best_score, replace_local_logger
from sgnet_nnunet.parallel import behind
from sgnet_nnunet.training.base_trainer import BaseTrainer
from sgnet_nnunet.training.gate_monitor import (
    KEYS,
    GateCounts,
    GateLogger,
    count_gates,
    gates_of_image,
    sum_counts,
    write_gates,
)
from sgnet_nnunet.training.losses import GatedLoss, any_foreground
from sgnet_nnunet.training.settings import VALIDATION_ENGINE, VALIDATION_ENGINES, read_choice

if TYPE_CHECKING:
    from sgnet_nnunet.inference.engines import Engine

GATE_COUNTS = "gate_counts"
"""Key of the gate counts in what a validation step returns, shape (6, gates)."""

VALIDATION_KEY = "sgnet_validation"
"""Key of `summary.json` that names the engine, if it is not nnU-Net's sliding window."""


class SGNetTrainer(BaseTrainer):
    """Train the SG-Net that the plan describes.

    nnU-Net treats the network's `GatedOutput`, a tuple whose first member is the logits, as the outputs of
    deep supervision: it hands the whole tuple to the loss and evaluates the first member. The loss and the
    validation step raise an error if a release of nnU-Net does otherwise.
    """

    network: nn.Module
    replaced_arguments: Mapping[str, Any] = MappingProxyType({})
    """The network's arguments that are not the plan's."""

    def set_up(self) -> None:
        """Choose what nnU-Net calls deep supervision, and the engine of `SGNET_VALIDATION_ENGINE`."""
        self.enable_deep_supervision = True
        self.validation_engine = read_choice(VALIDATION_ENGINE, VALIDATION_ENGINES)

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,  # noqa: ARG003
    ) -> nn.Module:
        """Build the plan's network; a plan of another network is refused."""
        planned = configuration_manager.network_arch_class_name
        if planned != f"{SGNet.__module__}.{SGNet.__name__}":
            raise SGNetError(
                f"plan {plans_manager.plans_name}: describes the network {planned}, not SG-Net; make a plan "
                "with `nnUNetv2_plan_experiment -d DATASET -pl SGNetPlanner` or name one with `-p`"
            )
        return get_network_from_plans(
            planned,
            {**configuration_manager.network_arch_init_kwargs, **cls.replaced_arguments},
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=False,
        )

    @cached_property
    def supervision(self) -> GateSupervision:
        """The plan's settings for training the gates, the defaults where it has none; others are refused."""
        return self.settings_of_plan("gate_supervision", GateSupervision)

    @property
    def sgnet(self) -> SGNet:
        """The network without the wrappers of nnU-Net."""
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network)  # type: ignore[arg-type]

    def initialize(self) -> None:
        """Build the network, optimiser and loss.

        Raises:
            SGNetError: If the plan was made for labels and the data set has regions, or the reverse, or
                if the network does not support the engine of `SGNET_VALIDATION_ENGINE`.
        """
        super().initialize()
        background, has_regions = self.sgnet.background_head, self.label_manager.has_regions
        if self.sgnet.has_hard_gates and background == has_regions:
            raise SGNetError(
                f"plan {self.plans_manager.plans_name}: has background_head={background}, but the data set's "
                f"labels are {'' if has_regions else 'not '}regions; plan again"
            )
        if self.validation_engine:
            # Imported here because it takes long, and nnU-Net imports every trainer's module.
            from sgnet_nnunet.inference.torch_engines import choose_engine  # noqa: PLC0415

            self.validation_engine = choose_engine(self.sgnet, self.validation_engine, self.device)
        names = self.sgnet.gate_names
        replace_local_logger(self, lambda *, verbose: GateLogger(names, verbose=verbose))

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        return [[0.5**level] * 3 for level in range(1 + len(self.sgnet.auxiliary_heads))]

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Let the network return its gates, or the logits alone."""
        self.sgnet.return_gates = enabled

    def _build_loss(self) -> nn.Module:
        return GatedLoss(self.build_segmentation_loss(), self.supervision)

    # --- training ------------------------------------------------------------------------------------------

    @property
    def warm_up_epochs(self) -> int:
        """Number of epochs for which the gates are bypassed."""
        return math.ceil(self.supervision.warm_up * self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """Start an epoch; bypass the gates during the warm-up, and enable them after it."""
        super().on_train_epoch_start()
        warming_up = self.current_epoch < self.warm_up_epochs
        self.sgnet.bypass_gates(warming_up)
        if not warming_up:
            self.sgnet.freeze_gated_norms()
        if self.current_epoch == self.warm_up_epochs:
            # The best checkpoint must be one with enabled gates.
            forget_best_score(self)

    def on_train_end(self) -> None:
        """End as nnU-Net does, and warn if the gates were never enabled."""
        super().on_train_end()
        if self.current_epoch <= self.warm_up_epochs and self.sgnet.has_hard_gates:
            self.print_to_log_file(
                f"WARNING: the training ended after {self.current_epoch} epochs, and its gates are bypassed "
                f"for the first {self.warm_up_epochs}: the gates of this network suppress nothing. Train "
                "longer, or plan with a smaller `warm_up`."
            )

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Validate on one batch, and count what the gates keep."""
        if not self.sgnet.gate_names:
            return super().validation_step(batch)
        # Before the step, since nnU-Net overwrites ignored voxels of the target.
        foreground, _ = any_foreground(batch["target"][0], **self.label_kind)
        outputs: list[object] = []
        hook = self.network.register_forward_hook(lambda *passed: outputs.append(passed[-1]))
        try:
            result = super().validation_step(batch)
        finally:
            hook.remove()
        if len(outputs) != 1 or not isinstance(outputs[0], GatedOutput):
            raise RuntimeError(
                f"nnU-Net's validation step ran the network {len(outputs)} times, not once with its gates; "
                "sgnet_nnunet does not support this release of nnU-Net"
            )
        counts = count_gates([decision.mask for decision in outputs[0].decisions], foreground)
        return result | {GATE_COUNTS: np.stack(counts)}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the pseudo Dice and the gate statistics; warn where a gate suppresses lesions."""
        super().on_validation_epoch_end(val_outputs)
        counts = self._gathered_counts(val_outputs) if self.sgnet.gate_names else None
        shares = counts.shares if counts else ([], [], [])
        for key, values in zip(KEYS, shares, strict=True):
            self.logger.log(key, values, self.current_epoch)
        if counts:
            self._report(counts)

    def _gathered_counts(self, val_outputs: list[dict[str, Any]]) -> GateCounts:
        """Return the counts of all batches of all processes."""
        counts = sum_counts(GateCounts(*one[GATE_COUNTS]) for one in val_outputs)
        if not self.is_ddp:
            return counts
        gathered = [counts] * dist.get_world_size()
        dist.all_gather_object(gathered, counts)
        return sum_counts(gathered)

    def _report(self, counts: GateCounts) -> None:
        for line in (counts.text(self.sgnet.gate_names), *counts.warnings(self.sgnet.gate_names)):
            self.print_to_log_file(line)

    # --- validation of the fold ----------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and evaluate the validation cases, and write gate statistics to `gates.json`.

        The cases are predicted as nnU-Net does or, with `SGNET_VALIDATION_ENGINE`, as `sgnet predict` does:
        whole images without mirroring. `summary.json` then names the engine.
        """
        engine, folder = self.validation_engine, Path(self.output_folder, "validation")
        if engine is None or engine == "tiled":
            super().perform_actual_validation(save_probabilities)
        else:
            self._predict_validation_cases(folder, engine, save_probabilities=save_probabilities)
            if self.local_rank == 0:
                self._evaluate_validation_cases(folder, engine)
            self.validate_without_channels()
        if self.local_rank == 0 and self.sgnet.gate_names:
            cases = {case: self._measure(case) for case in self.do_split()[1]}
            write_gates(folder / "gates.json", cases, self.sgnet.gate_names)
            self._report(sum_counts(cases.values()))

    def _predict_validation_cases(self, folder: Path, engine: str, *, save_probabilities: bool) -> None:
        """Write the mask of each case, exporting one while the engine works on the next."""
        from nnunetv2.inference.export_prediction import export_prediction_from_logits  # noqa: PLC0415

        from sgnet_nnunet.inference.engines import finite_logits  # noqa: PLC0415

        folder.mkdir(parents=True, exist_ok=True)
        cases = self.do_split()[1][self.local_rank :: dist.get_world_size() if self.is_ddp else 1]
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        self.network.eval()
        self.set_deep_supervision_enabled(False)
        network = self._build_engine(engine)
        self.set_deep_supervision_enabled(True)
        with behind(export_prediction_from_logits) as submit:
            for case in cases:
                self.print_to_log_file(f"predicting {case}")
                data, _, _, properties = dataset.load_case(case)
                image = np.asarray(data[:], dtype=np.float32)
                submit(
                    finite_logits(network, image, path=Path(self.preprocessed_dataset_folder, case)),
                    properties,
                    self.configuration_manager,
                    self.plans_manager,
                    self.dataset_json,
                    str(folder / case),
                    save_probabilities,
                    torch.get_num_threads(),
                )
        if self.is_ddp:
            dist.barrier()

    def _build_engine(self, engine: str) -> "Engine":
        from sgnet_nnunet.inference.torch_engines import build_engine  # noqa: PLC0415

        network = build_engine(self.sgnet, [self.sgnet.state_dict()], requested=engine, device=self.device)
        if network is None:
            raise ValueError("engine must be whole or sparse")
        return network

    def whole_image_logits(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return the engine of `SGNET_VALIDATION_ENGINE`; without one, nnU-Net's sliding window."""
        engine = self.validation_engine
        if engine is None or engine == "tiled":
            return super().whole_image_logits()
        return self._build_engine(engine).logits

    def fast_logits(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return the engine that `sgnet predict` uses on this device."""
        from sgnet_nnunet.inference.torch_engines import choose_engine  # noqa: PLC0415

        engine = choose_engine(self.sgnet, "auto", self.device)
        return super().whole_image_logits() if engine == "tiled" else self._build_engine(engine).logits

    def _evaluate_validation_cases(self, folder: Path, engine: str) -> None:
        """Write `summary.json` as nnU-Net does, with the engine added."""
        from nnunetv2.configuration import default_num_processes  # noqa: PLC0415
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder  # noqa: PLC0415

        summary, labels = folder / "summary.json", self.label_manager
        metrics = compute_metrics_on_folder(
            str(Path(self.preprocessed_dataset_folder_base, "gt_segmentations")),
            str(folder),
            str(summary),
            self.plans_manager.image_reader_writer_class(),
            self.dataset_json["file_ending"],
            labels.foreground_regions if labels.has_regions else labels.foreground_labels,
            labels.ignore_label,
            num_processes=default_num_processes,
            chill=True,
        )
        record = {VALIDATION_KEY: {"engine": engine, "mirroring": False}}
        write_text(summary, json.dumps(read_json(summary) | record, indent=4) + "\n")
        dice = metrics["foreground_mean"]["Dice"]
        for label, values in metrics["mean"].items():
            self.logger.log_summary(f"final_val/class_{label}_dice", values["Dice"])
        self.logger.log_summary("final_val/foreground_dice", dice)
        self.print_to_log_file("Validation complete", also_print_to_console=True)
        self.print_to_log_file("Mean Validation Dice: ", dice)

    def _measure(self, case: str) -> GateCounts:
        dataset = self.dataset_class(self.preprocessed_dataset_folder, [case])
        data, segmentation, _, _ = dataset.load_case(case)
        labels = torch.from_numpy(segmentation[:]).long()[None]
        foreground, _ = any_foreground(labels, regions=False, ignore_label=self.label_manager.ignore_label)
        image = torch.from_numpy(data[:]).to(self.device)
        masks = gates_of_image(self.sgnet, image, self.configuration_manager.patch_size)
        return count_gates(masks, foreground)


class SGNetSkipGateTrainer(SGNetTrainer):
    """Train SG-Net with straight-through gates on the skip connections."""

    replaced_arguments = MappingProxyType({"gate": "straight_through", "gate_kwargs": {}})


class SGNetSoftGateTrainer(SGNetTrainer):
    """Train SG-Net with the scores of the skip gates as soft weights, which suppress nothing entirely."""

    replaced_arguments = MappingProxyType({"gate": "soft", "gate_kwargs": {}})


class SGNetNoGateTrainer(SGNetTrainer):
    """Train SG-Net without a gate: the network that the author released."""

    replaced_arguments = MappingProxyType({"gate": "none", "gate_kwargs": {}})


class SGNetDeepSupervisionTrainer(SGNetTrainer):
    """Train the SG-Net that the plan describes with auxiliary heads on its coarser decoder levels."""

    replaced_arguments = MappingProxyType({"deep_supervision": True})
