"""Estimated time, memory and disk of a step, from the measured tables of `benchmarks/results`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

STEP_S = {"cpu": 2.217, "cuda": 0.0210}
"""Seconds of a training step of SGNetNoGateTrainer, four patches of 32 x 96 x 96 voxels (z, y, x).

On a CPU with two threads (`training.json`), and on an H200 (`phantom_study_gpu_speed.json`).
"""

STEP_RELATIVE = {
    "SGNetTrainer": 1.21, "SGNetNoGateTrainer": 1.0, "SGNetSkipGateTrainer": 1.15,
    "SGNetSoftGateTrainer": 1.08, "SGNetDeepSupervisionTrainer": 1.43, "SGNetNotebookTrainer": 1.07,
    "BaselineUNetTrainer": 0.73, "BaselineResUNetTrainer": 1.07, "BaselineAttentionUNetTrainer": 1.77,
}  # fmt: skip
"""Time of a step as a multiple, on the H200; networks that were not timed take as long as the slowest."""

Gpu = Literal["H200", "A100", "V100", "T4", "L4"]

BANDWIDTH_TB_S: dict[Gpu, float] = {"H200": 4.8, "A100": 2.0, "V100": 0.9, "T4": 0.32, "L4": 0.3}
"""Memory bandwidth (data sheets), by which a GPU is estimated to be slower than the H200 of `STEP_S`."""

PREPROCESS_S = {"SGNetPlanner": 0.28, "ExperimentPlanner": 1.98}
"""Seconds a case of one process (`training.json`)."""

PREDICT_S = {"SGNet": 0.79, "dense": 3.61, "nnUNet": 32.2}
"""Seconds a patient on two cores: block-sparse, one dense pass, nnU-Net's window (`inference.json`)."""

CASE_MB = {"preprocessed": 33.0, "raw": 42.0, "mask": 0.05}
"""Disk of a patient: two channels of 147 x 175 x 146 voxels in 32 bits, two NIfTI scans, a mask."""

CHECKPOINTS_MB = {"SGNet": 25.0, "nnUNet": 750.0}
"""Of three files of weights and an optimiser's two moments: 0.67 million parameters; nnU-Net's 31 million."""

BASE_MB, STEP_MB = 3000, 2412
"""Memory of a process of nnU-Net with its data; what a step of four patches takes (`training.json`)."""

_STEP_VOXELS = 4 * 32 * 96 * 96


@dataclass(frozen=True)
class Cost:
    """What a step is expected to take; the time is that of one GPU, or of two cores without one."""

    minutes: float = 1.0
    memory_mb: int = 3000
    disk_mb: float = 0.0


def training_cost(
    trainer: str, *, device: str, iterations: float, patch: Sequence[int], batch: int, cases: int,
    gpu: Gpu = "H200",
) -> Cost:  # fmt: skip
    """Return the cost of a number of training steps and of predicting the validation cases of the fold."""
    relative = STEP_RELATIVE.get(trainer, max(STEP_RELATIVE.values()))
    steps = batch * patch[0] * patch[1] * patch[2] / _STEP_VOXELS
    slower = BANDWIDTH_TB_S["H200"] / BANDWIDTH_TB_S[gpu] if device == "cuda" else 1
    validation = cases * PREDICT_S["nnUNet"] / (1 if device == "cpu" else 10)
    seconds = iterations * steps * STEP_S[device] * relative * slower + validation + 30
    disk = CHECKPOINTS_MB["nnUNet" if trainer.startswith("nnUNet") else "SGNet"] + cases * 2 * CASE_MB["mask"]
    return Cost(seconds / 60, round(BASE_MB + STEP_MB * steps), disk)


def prediction_cost(trainer: str, cases: int, *, folds: int) -> Cost:
    """Return the cost of predicting cases with the average of the folds."""
    kind = next((kind for kind in ("SGNet", "nnUNet") if trainer.startswith(kind)), "dense")
    return Cost((cases * folds * PREDICT_S[kind] + 5) / 60, 4000, cases * CASE_MB["mask"])


def preprocessing_cost(planner: str, cases: int) -> Cost:
    """Return the cost of preprocessing cases by one process."""
    seconds = PREPROCESS_S["SGNetPlanner" if planner.startswith("SGNet") else "ExperimentPlanner"]
    return Cost((cases * seconds + 20) / 60, 4000, cases * CASE_MB["preprocessed"])
