"""A trained model, as nnU-Net leaves it in a folder."""

from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.network import initialise
from sgnet_nnunet.inference.prints import prints_to_log


def load_predictor(
    model_folder: Path, *, fold: str = "0", checkpoint: str = "checkpoint_final.pth", device: str = "cpu"
) -> nnUNetPredictor:
    """Return nnU-Net's predictor with one fold's weights in its network, in evaluation mode.

    It neither mirrors nor steps closer than 3/4 of a patch, as in the SG-Net README.

    Args:
        model_folder: nnU-Net's folder of the training, such as
            `nnUNet_results/Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres`.
        fold: The fold, a number or `all`.
        checkpoint: File name of the weights.
        device: Device in nnU-Net's words: cpu, cuda or mps.

    Raises:
        InputFileError: If the weights are not there.
    """
    weights = model_folder / f"fold_{fold}" / checkpoint
    if not weights.is_file():
        raise InputFileError(weights, "there is no such file", "name a trained model's folder, fold and -chk")
    with prints_to_log():
        predictor = nnUNetPredictor(
            tile_step_size=0.75,
            use_mirroring=False,
            perform_everything_on_device=device == "cuda",
            device=torch.device(device),
            allow_tqdm=False,
        )
        initialise(predictor, model_folder, (fold,), checkpoint)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    predictor.network.to(predictor.device).eval()
    return predictor
