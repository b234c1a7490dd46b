"""A model's network and weights, without nnU-Net's trainer where the plan alone describes the network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nnunet import prints_to_log

PLANNED = "SGNetTrainer"
"""The trainer that trains the plan's SG-Net as it is; its subclasses change it."""


def initialise(predictor: nnUNetPredictor, model_folder: Path, folds: Sequence[str], checkpoint: str) -> None:
    """Give a predictor its network, the weights of the folds, and what the model's folder says.

    nnU-Net looks up the trainer for that, which imports Matplotlib, pandas and scikit-learn: more than a
    second. Other trainers than `PLANNED` go that way.

    Args:
        predictor: The predictor.
        model_folder: nnU-Net's folder of the training.
        folds: Folds that have weights.
        checkpoint: File name of the weights.

    Raises:
        InputFileError: If `plans.json` or `dataset.json` is missing or is not JSON.
    """
    weights = [
        torch.load(model_folder / f"fold_{fold}" / checkpoint, map_location="cpu", weights_only=False)
        for fold in folds
    ]
    first = weights[0]
    plans = PlansManager(read_json(model_folder / "plans.json"))
    dataset = read_json(model_folder / "dataset.json")
    configuration = plans.get_configuration(first["init_args"]["configuration"])
    network = configuration.network_arch_class_name
    if first["trainer_name"] != PLANNED or network != f"{SGNet.__module__}.{SGNet.__name__}":
        predictor.initialize_from_trained_model_folder(str(model_folder), tuple(folds), checkpoint)
        return
    predictor.manual_initialization(
        get_network_from_plans(
            network,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            determine_num_input_channels(plans, configuration, dataset),
            plans.get_label_manager(dataset).num_segmentation_heads,
            allow_init=False,
        ),
        plans,
        configuration,
        [one["network_weights"] for one in weights],
        dataset,
        first["trainer_name"],
        first.get("inference_allowed_mirroring_axes"),
    )


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
