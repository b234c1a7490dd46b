"""Estimated time, memory and disk of a step, from the measured tables of `benchmarks/results`."""

from dataclasses import dataclass

STEP_S = {"cpu": 2.217, "cuda": 0.0210}
"""Seconds of a training step of SGNetNoGateTrainer, four patches of 32 x 96 x 96 voxels (z, y, x).

On a CPU with two threads (`training.json`), and on an H200 (`phantom_study_gpu_speed.json`).
"""

RELATIVE = {
    "SGNetTrainer": 1.21,
    "SGNetNoGateTrainer": 1.0,
    "SGNetSkipGateTrainer": 1.15,
    "SGNetSoftGateTrainer": 1.08,
    "SGNetDeepSupervisionTrainer": 1.43,
    "SGNetNotebookTrainer": 1.07,
    "BaselineUNetTrainer": 0.73,
    "BaselineResUNetTrainer": 1.07,
    "BaselineAttentionUNetTrainer": 1.77,
}
"""Time of a step as a multiple, on the H200; networks that were not timed take as long as the slowest."""

H200_PER_GPU = {"H200": 1.0, "H100": 1.0, "A100": 2.4, "L4": 16.0, "V100": 5.3, "T4": 15.0}
"""How many times as long as on an H200, by the GPUs' memory bandwidth (data sheets); estimates.

The bandwidths are 4.8, 3.35, 2.0, 0.3, 0.9 and 0.32 TB/s; a small network on an H100 is not held back by it.
"""

STEP_VOXELS = 4 * 32 * 96 * 96
PREPROCESS_S = {"SGNetPlanner": 0.28, "ExperimentPlanner": 1.98}
"""Seconds a case (`training.json`)."""

PREDICT_S = {"SGNet": 0.79, "dense": 3.61, "nnUNet": 32.2}
"""Seconds a patient on two cores: block-sparse, one dense pass, nnU-Net's window (`inference.json`)."""

PREPROCESSED_MB, RAW_MB, MASK_MB = 33.0, 20.0, 0.05
"""A patient of two channels of 147 x 175 x 146 voxels in 32 bits; a scan of 240 x 240 x 163 in NIfTI."""

CHECKPOINTS_MB, CHECKPOINTS_NNUNET_MB = 25.0, 750.0
"""Three files of weights and an optimiser's two moments: 0.67 million parameters; nnU-Net's 31 million."""

BASE_MB, STEP_MB = 3000, 2412
"""A process of nnU-Net with its data; what a step of four patches takes (`training.json`)."""


@dataclass(frozen=True)
class Cost:
    """What a step is expected to take; the time is that of one GPU, or of two cores without one."""

    minutes: float = 1.0
    memory_mb: int = 3000
    disk_mb: float = 0.0


def training_cost(
    trainer: str, *, device: str, epochs: int, iterations: int, validations: int, patch: tuple[int, ...],
    batch: int, cases: int, gpu: str = "H200",
) -> Cost:  # fmt: skip
    """Return the cost of training one fold and predicting its validation cases."""
    voxels = batch * patch[0] * patch[1] * patch[2] / STEP_VOXELS
    step = STEP_S[device] * RELATIVE.get(trainer, max(RELATIVE.values())) * voxels
    if device == "cuda":
        step *= H200_PER_GPU.get(gpu, 1.0)
    seconds = epochs * (iterations + validations / 3) * step
    validation = cases * PREDICT_S["nnUNet"] / (1 if device == "cpu" else 10)
    stock = trainer.startswith("nnUNet")
    disk = CHECKPOINTS_NNUNET_MB if stock else CHECKPOINTS_MB
    return Cost(
        (seconds + validation) / 60 + 0.5, round(BASE_MB + STEP_MB * voxels), disk + cases * 2 * MASK_MB
    )


def prediction_cost(trainer: str, cases: int, *, folds: int) -> Cost:
    """Return the cost of predicting cases with the average of the folds."""
    kind = "SGNet" if trainer.startswith("SGNet") else "nnUNet" if trainer.startswith("nnUNet") else "dense"
    return Cost((cases * folds * PREDICT_S[kind] + 5) / 60, 4000, cases * MASK_MB)


def preprocessing_cost(planner: str, cases: int) -> Cost:
    """Return the cost of preprocessing cases by one process."""
    kind = "SGNetPlanner" if planner.startswith("SGNet") else "ExperimentPlanner"
    return Cost((cases * PREPROCESS_S[kind] + 20) / 60, 4000, cases * PREPROCESSED_MB)
