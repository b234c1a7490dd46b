"""One training of the study, through nnU-Net's own trainer and predictor.

Run in a process of its own, so that each starts from its seed: `python train.py FOLDER TRAINER PLANS SEED`.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from study.config import StudyConfig
from study.data import DATASET, nnunet_paths

SCORES = "scores.json"


def run_folder(folder: Path, trainer: str, seed: int) -> Path:
    """Return where a training of the study leaves its results."""
    return folder / "runs" / f"seed{seed}" / trainer


def train_and_score(folder: Path, trainer_name: str, plans: str, seed: int) -> None:
    """Train one network from one seed, predict the test patients and score them."""
    config = StudyConfig.load(folder / "config.json")
    target = run_folder(folder, trainer_name, seed)
    target.mkdir(parents=True, exist_ok=True)
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(target), "nnUNet_n_proc_DA": "0"}
    os.environ |= {
        "SGNET_EPOCHS": str(config.epochs),
        "SGNET_ITERS": str(config.iters),
        "SGNET_VAL_ITERS": "4",
    }
    # nnU-Net reads its paths when it is imported.
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from study.score import score_run  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)
    device = torch.device(config.device)
    trainer = get_trainer_from_args("501", "3d_fullres", 0, trainer_name, plans, device=device)
    if trainer_name == "nnUNetTrainer":
        _shorten(trainer, config)
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    if checkpoint.exists():
        trainer.load_checkpoint(str(checkpoint))
    else:
        trainer.run_training()
    predictor = nnUNetPredictor(
        tile_step_size=0.75, use_mirroring=False, device=device, allow_tqdm=False, verbose=False,
        perform_everything_on_device=device.type == "cuda",
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), checkpoint.name)
    raw = folder / "nnUNet_raw" / DATASET
    predictions = target / "predictions"
    predictions.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(str(raw / "imagesTs"), str(predictions))
    score_run(trainer, raw, predictions, target / SCORES)


def _shorten(trainer: object, config: StudyConfig) -> None:
    """Give nnU-Net's own trainer as many patches as the others see."""
    patches = config.iters * config.batch_size
    trainer.num_epochs = config.epochs
    trainer.num_iterations_per_epoch = round(patches / trainer.configuration_manager.batch_size)
    trainer.num_val_iterations_per_epoch = 4


if __name__ == "__main__":
    train_and_score(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
