"""One training of the study, through nnU-Net's own trainer and predictor.

Run in a process of its own, so that each starts from its seed: `python -m study.train FOLDER RUN SEED`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from study.config import HELD_OPEN, StudyConfig, model_of_run
from study.data import DATASET, nnunet_paths

SCORES = "scores.json"
VAL_ITERS = 4


def run_folder(folder: Path, run: str, seed: int) -> Path:
    """Return where a training of the study leaves its results."""
    return folder / "runs" / f"seed{seed}" / run


def train_and_score(folder: Path, run: str, seed: int) -> None:
    """Train one network from one seed, predict the test patients and score them."""
    config = StudyConfig.load(folder / "config.json")
    model = model_of_run(run)
    target = run_folder(folder, run, seed)
    target.mkdir(parents=True, exist_ok=True)
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(target), "nnUNet_n_proc_DA": "0"}
    os.environ |= {
        "SGNET_EPOCHS": str(config.epochs),
        "SGNET_ITERS": str(config.iters),
        "SGNET_VAL_ITERS": str(VAL_ITERS),
        "SGNET_PATIENCE": "0",
    }
    # nnU-Net reads its paths when it is imported.
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.inference.model import load_predictor  # noqa: PLC0415
    from sgnet_nnunet.training.gated import GatedTrainer  # noqa: PLC0415
    from sgnet_nnunet.training.precision import Precision  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)
    device = torch.device(config.device)
    trainer = get_trainer_from_args("501", "3d_fullres", 0, model.trainer, model.plans, device=device)
    if model.trainer == "nnUNetTrainer":
        _shorten(trainer, config)
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    if checkpoint.exists():
        trainer.load_checkpoint(str(checkpoint))
    else:
        if config.bfloat16 and model.bfloat16:
            trainer.precision = Precision(bfloat16=True)
        trainer.run_training()
    predictor = load_predictor(Path(trainer.output_folder_base), device=config.device)
    raw = folder / "nnUNet_raw" / DATASET
    _predict_and_score(trainer, predictor, raw, target)
    if isinstance(trainer, GatedTrainer) and _hold_open(predictor.list_of_parameters[0]):
        trainer.sgnet.hold_gates_open(True)
        target = run_folder(folder, run + HELD_OPEN, seed)
        target.mkdir(parents=True, exist_ok=True)
        _predict_and_score(trainer, predictor, raw, target, gates=False)


def _hold_open(weights: dict[str, torch.Tensor]) -> bool:
    """Hold the admission gates of a network's weights open; tell whether there are any."""
    held = [value for name, value in weights.items() if name.endswith("held_open")]
    for value in held:
        value.fill_(True)
    return bool(held)


def _predict_and_score(
    trainer: Any,  # noqa: ANN401
    predictor: Any,  # noqa: ANN401
    raw: Path,
    target: Path,
    *,
    gates: bool = True,
) -> None:
    from study.score import score_run  # noqa: PLC0415

    predictions = target / "predictions"
    predictions.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(str(raw / "imagesTs"), str(predictions))
    score_run(trainer, raw, predictions, target / SCORES, gates=gates)


def _shorten(trainer: Any, config: StudyConfig) -> None:  # noqa: ANN401
    """Give nnU-Net's own trainer as many patches as the others see."""
    patches = config.iters * config.batch_size
    trainer.num_epochs = config.epochs
    trainer.num_iterations_per_epoch = round(patches / trainer.configuration_manager.batch_size)
    trainer.num_val_iterations_per_epoch = VAL_ITERS


if __name__ == "__main__":
    train_and_score(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
