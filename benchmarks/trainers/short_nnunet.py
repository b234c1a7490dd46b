"""nnU-Net's own trainer with the schedule of a study; nnU-Net finds it through nnUNet_extTrainer."""

import os
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class ShortNNUNetTrainer(nnUNetTrainer):
    """nnU-Net's trainer with `SGNET_EPOCHS`, and as many patches an epoch as the others see.

    That is `SGNET_ITERS` times `SGNET_STUDY_BATCH`, the batch of the others' plan.
    """

    def __init__(  # nnU-Net keeps the arguments by these names
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - as nnU-Net's
    ) -> None:
        """Take what nnU-Net's trainer takes."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        patches = int(os.environ["SGNET_ITERS"]) * int(os.environ["SGNET_STUDY_BATCH"])
        self.num_epochs = int(os.environ["SGNET_EPOCHS"])
        self.num_iterations_per_epoch = round(patches / self.configuration_manager.batch_size)
        self.num_val_iterations_per_epoch = int(os.environ["SGNET_VAL_ITERS"])
