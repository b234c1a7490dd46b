"""What a trained model costs: its parameters and its time for a case."""

import logging
import pickle
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.results import Model, Results
from sgnet_nnunet.inference.nnunet_adapter import load_predictor

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")

STEP = 0.5
"""nnU-Net's own step of the sliding window, as a share of the patch."""

logger = logging.getLogger(__name__)


def with_costs(results: Results, preprocessed: Path, *, time_cases: int = 1, device: str = "cpu") -> Results:
    """Return the results with each model's parameters and its seconds per case.

    A model without weights, or whose network cannot be built here, keeps None, with a warning: its
    masks can be judged all the same.

    Args:
        results: The results; models without a folder stay as they are.
        preprocessed: The data set's folder in nnUNet_preprocessed.
        time_cases: How many cases to time each model on, all on the same ones; 0 for none.
        device: Device in nnU-Net's words: cpu, cuda or mps.
    """
    models = tuple(
        with_cost(
            model,
            fold=next((case.fold for case in results.cases if case.model == model.name), "0"),
            preprocessed=preprocessed,
            cases=[case.name for case in results.cases if case.model == model.name][:time_cases],
            device=device,
        )
        for model in results.models
    )
    return replace(results, models=models)


def with_cost(
    model: Model, *, fold: str, preprocessed: Path, cases: Sequence[str] = (), device: str = "cpu"
) -> Model:
    """Return the model with its parameters and, if there are cases, its seconds per case.

    Args:
        model: The model.
        fold: The fold whose weights to take.
        preprocessed: The data set's folder in nnUNet_preprocessed.
        cases: Names of the cases to time the network on.
        device: Device in nnU-Net's words: cpu, cuda or mps.
    """
    predictor = None if model.folder is None else _load(model.folder, fold, device)
    if predictor is None:
        return model
    seconds = None
    try:
        seconds = seconds_per_case(predictor, preprocessed, cases) if cases else None
    except SGNetError as error:
        logger.warning("%s: not timed: %s", model.name, error)
    return replace(model, parameters=count_parameters(predictor.network), seconds_per_case=seconds)


def count_parameters(network: torch.nn.Module) -> int:
    """Return the number of parameters that training may change, those that are shared once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def seconds_per_case(predictor: nnUNetPredictor, preprocessed: Path, cases: Sequence[str]) -> float:
    """Measure the time of nnU-Net's sliding window, step 0.5 and no mirroring: median over the cases.

    Reading, preprocessing and export are left out, since they are the same for all models.

    Args:
        predictor: The model, from `inference.nnunet_adapter.load_predictor`.
        preprocessed: The data set's folder in nnUNet_preprocessed.
        cases: Names of the cases.

    Raises:
        SGNetError: If a case has not been preprocessed for the model's configuration.
    """
    predictor.tile_step_size = STEP
    # The first pass chooses kernels and reserves memory.
    patch = predictor.configuration_manager.patch_size
    corner = (slice(None), *(slice(size) for size in (1, *patch)[-3:]))
    _seconds(predictor, _preprocessed(predictor, preprocessed, cases[0])[corner])
    return statistics.median(
        _seconds(predictor, _preprocessed(predictor, preprocessed, case)) for case in cases
    )


def _seconds(predictor: nnUNetPredictor, image: torch.Tensor) -> float:
    start = perf_counter()
    # On the CPU at last, so that a GPU has nothing left to do when the clock stops.
    predictor.predict_sliding_window_return_logits(image).cpu()
    return perf_counter() - start


def _load(folder: Path, fold: str, device: str) -> nnUNetPredictor | None:
    for checkpoint in CHECKPOINTS:
        if (folder / f"fold_{fold}" / checkpoint).is_file():
            try:
                return load_predictor(folder, fold=fold, checkpoint=checkpoint, device=device)
            except (
                OSError,
                RuntimeError,
                KeyError,
                AttributeError,
                ImportError,
                EOFError,
                pickle.PickleError,
            ) as error:
                detail = " ".join(str(error).split())[:200]
                logger.warning("%s: parameters unknown: its network cannot be built (%s)", folder, detail)
                return None
    logger.warning("%s: parameters unknown: fold_%s has no weights", folder, fold)
    return None


def _preprocessed(predictor: nnUNetPredictor, preprocessed: Path, case: str) -> torch.Tensor:
    """Return a preprocessed image as the network takes it, shape (channels, z, y, x).

    A cascade's second stage gets an empty first stage, which takes as long as any other.
    """
    configuration = predictor.configuration_manager
    folder = preprocessed / configuration.data_identifier
    try:
        dataset = infer_dataset_class(str(folder))(str(folder), [case])
        data = np.asarray(dataset.load_case(case)[0][:], dtype=np.float32)
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        raise SGNetError(
            f"{folder}: no preprocessed {case}; run nnUNetv2_preprocess, or give --time-cases 0"
        ) from error
    channels = determine_num_input_channels(predictor.plans_manager, configuration, predictor.dataset_json)
    stage = np.zeros((channels - len(data), *data.shape[1:]), dtype=np.float32)
    return torch.from_numpy(np.concatenate([data, stage]))
