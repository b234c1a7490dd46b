"""The benchmark trainers, for `export nnUNet_extTrainer=<this folder>`."""

from sgnet_nnunet.training.benchmark_trainers import (
    SGNetTrainerBenchmark_5epochs,
    SGNetTrainerBenchmark_5epochs_noDataLoading,
)

__all__ = ["SGNetTrainerBenchmark_5epochs", "SGNetTrainerBenchmark_5epochs_noDataLoading"]
