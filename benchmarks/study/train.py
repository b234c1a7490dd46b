"""One training of the study, through nnU-Net's own trainer and predictor.

Run in a process of its own, so that each starts from its seed: `python -m study.train FOLDER RUN SEED`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from study.config import StudyConfig, model_of_run
from study.data import DATASET, nnunet_paths

SCORES = "scores.json"
VAL_ITERS = 4


def run_folder(folder: Path, run: str, seed: int) -> Path:
    """Return where a training of the study leaves its results."""
    return folder / "runs" / f"seed{seed}" / run


def train_and_score(folder: Path, run: str, seed: int) -> None:
    """Train one network from one seed, predict the test patients and score them.

    A run of gates held open takes the weights of the training it belongs to.

    Raises:
        FileNotFoundError: If that training is missing.
    """
    config = StudyConfig.load(folder / "config.json")
    model = model_of_run(run)
    training, target = (run_folder(folder, name, seed) for name in (model.training, run))
    target.mkdir(parents=True, exist_ok=True)
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(training)}
    if config.device == "cpu":
        os.environ |= {"nnUNet_n_proc_DA": "0"}  # its cores are the network's
    os.environ |= {
        "SGNET_EPOCHS": str(config.epochs),
        "SGNET_ITERS": str(config.iters),
        "SGNET_VAL_ITERS": str(VAL_ITERS),
        "SGNET_PATIENCE": "0",
    }
    # nnU-Net reads its paths when it is imported.
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.inference.trained_model import load_predictor  # noqa: PLC0415
    from sgnet_nnunet.training.settings import Precision  # noqa: PLC0415
    from study.score import score_run  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)
    device = torch.device(config.device)
    trainer = get_trainer_from_args("501", "3d_fullres", 0, model.trainer, model.plans, device=device)
    if model.trainer == "nnUNetTrainer":
        _shorten(trainer, config)
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    if checkpoint.exists() or model.bypassed:
        trainer.load_checkpoint(str(checkpoint))
    else:
        if config.device == "cpu" and config.bfloat16 and model.bfloat16:
            trainer.precision = Precision(bfloat16=True)
        trainer.run_training()
    predictor = load_predictor(Path(trainer.output_folder_base), device=config.device)
    if model.bypassed:
        _hold_open(predictor.list_of_parameters[0])
    raw, predictions = folder / "nnUNet_raw" / DATASET, target / "predictions"
    predictions.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(str(raw / "imagesTs"), str(predictions))
    score_run(trainer, raw, predictions, target / SCORES, gates=not model.bypassed)


def _hold_open(weights: dict[str, torch.Tensor]) -> None:
    """Hold the hard spatial gates of a network's weights open."""
    for name, value in weights.items():
        if name.endswith("bypassed"):
            value.fill_(True)


def _shorten(trainer: Any, config: StudyConfig) -> None:  # noqa: ANN401
    """Give nnU-Net's own trainer as many patches as the others see."""
    patches = config.iters * config.batch_size
    trainer.num_epochs = config.epochs
    trainer.num_iterations_per_epoch = round(patches / trainer.configuration_manager.batch_size)
    trainer.num_val_iterations_per_epoch = VAL_ITERS


if __name__ == "__main__":
    train_and_score(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
