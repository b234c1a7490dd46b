"""A trained model made ready to predict."""

from functools import partial
from pathlib import Path

import torch

from sgnet_nnunet.engine.choose import build_engine
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.network import initialise
from sgnet_nnunet.inference.options import PredictionOptions
from sgnet_nnunet.inference.predictor import SGNetPredictor


def load_for_prediction(model_folder: Path, options: PredictionOptions) -> SGNetPredictor:
    """Return the predictor of a model, as the options want it, its engine still to be opened.

    Args:
        model_folder: nnU-Net's folder of the training.
        options: How to predict.

    Raises:
        InputFileError: If weights are missing.
        SGNetError: If no fold is trained, or the device is not there.
    """
    device = torch.device(_device(options.device))
    folds = options.folds or _trained_folds(model_folder, options.checkpoint)
    for fold in folds:
        weights = model_folder / f"fold_{fold}" / options.checkpoint
        if not weights.is_file():
            raise InputFileError(
                weights, "there is no such file", "name a trained model, its -f and its -chk"
            )
    predictor = SGNetPredictor(
        tile_step_size=options.step_size,
        use_mirroring=options.mirroring,
        perform_everything_on_device=device.type == "cuda",
        device=device,
        allow_tqdm=False,
    )
    initialise(predictor, model_folder, folds, options.checkpoint)
    predictor.open_engine = partial(
        build_engine,
        predictor.network,
        predictor.list_of_parameters,
        wanted=options.engine,
        runtime=options.runtime,
        precision=options.precision,
        device=device,
        max_memory=options.max_memory,
    )
    return predictor


def _trained_folds(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    """Return the numbered folds that have weights, else the fold `all`."""
    folds = sorted(
        path.parent.name.removeprefix("fold_") for path in model_folder.glob(f"fold_*/{checkpoint}")
    )
    if not folds:
        raise InputFileError(
            model_folder, f"holds no fold_*/{checkpoint}", "train the model, or name another -d, -tr, -p, -c"
        )
    return tuple(fold for fold in folds if fold != "all") or ("all",)


def _device(name: str | None) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        usable = " or ".join(device for device, usable in there.items() if usable)
        raise SGNetError(f"-device {name}: there is none here; give {usable}")
    return name
