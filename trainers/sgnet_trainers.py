"""The trainers, for `export nnUNet_extTrainer=<this folder>` where nnU-Net's own folders are read-only."""

from sgnet_nnunet.training.baseline_trainers import (
    BaselineAttentionUNetTrainer,
    BaselineResUNetTrainer,
    BaselineUNetTrainer,
)
from sgnet_nnunet.training.notebook_trainer import SGNetNotebookTrainer
from sgnet_nnunet.training.sgnet_trainer import (
    SGNetDeepSupervisionTrainer,
    SGNetNoGateTrainer,
    SGNetSkipGateTrainer,
    SGNetSoftGateTrainer,
    SGNetTrainer,
)

__all__ = [
    "BaselineAttentionUNetTrainer",
    "BaselineResUNetTrainer",
    "BaselineUNetTrainer",
    "SGNetDeepSupervisionTrainer",
    "SGNetNoGateTrainer",
    "SGNetNotebookTrainer",
    "SGNetSkipGateTrainer",
    "SGNetSoftGateTrainer",
    "SGNetTrainer",
]
