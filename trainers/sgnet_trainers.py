"""The trainers, for `export nnUNet_extTrainer=<this folder>` where nnU-Net's own folders are read-only."""

from sgnet_nnunet.training.trainers import (
    AttentionUNetTrainer,
    ResUNetTrainer,
    SGNetDeepSupervisionTrainer,
    SGNetNoGateTrainer,
    SGNetNotebookTrainer,
    SGNetSkipGateTrainer,
    SGNetSoftGateTrainer,
    SGNetTrainer,
    UNetTrainer,
)

__all__ = [
    "AttentionUNetTrainer",
    "ResUNetTrainer",
    "SGNetDeepSupervisionTrainer",
    "SGNetNoGateTrainer",
    "SGNetNotebookTrainer",
    "SGNetSkipGateTrainer",
    "SGNetSoftGateTrainer",
    "SGNetTrainer",
    "UNetTrainer",
]
