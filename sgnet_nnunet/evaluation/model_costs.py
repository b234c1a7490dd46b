"""Costs of a trained model: its number of parameters and its seconds per case."""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.results import Results
from sgnet_nnunet.inference.nnunet_adapter import TiledEngine
from sgnet_nnunet.inference.plan import configuration_of
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.torch_engines import build_engine, choose_engine
from sgnet_nnunet.inference.trained_model import TrainedModel, find_device, load_trained_model
from sgnet_nnunet.nnunet import CHECKPOINT, without_pickles
from sgnet_nnunet.schemas import Configuration

CHECKPOINTS = (CHECKPOINT, "checkpoint_best.pth")

logger = logging.getLogger(__name__)


def with_costs(results: Results, preprocessed: Path, *, time_cases: int = 1, device: str = "cpu") -> Results:
    """Return the results with each model's parameters and its seconds per case, on the same cases for all.

    A model without weights, or whose network cannot be built here, keeps None, with a warning: its
    masks are evaluated nevertheless. Those without a folder stay as they are.

    Args:
        results: The results.
        preprocessed: The data set's folder in nnUNet_preprocessed.
        time_cases: How many cases to time each model on; 0 for none.
        device: Device in nnU-Net's words: cpu, cuda or mps.
    """
    models = []
    for model in results.models:
        cases = [case for case in results.cases if case.model == model.name]
        fold = cases[0].fold if cases else "0"
        trained = _load(model.folder, fold, trust=results.trust) if model.folder else None
        if trained is not None:
            model = replace(model, parameters=count_parameters(trained.network))  # noqa: PLW2901
            names = [case.name for case in cases[:time_cases]]
            try:
                if names:
                    seconds, engine = seconds_per_case(trained, preprocessed, names, device=device)
                    model = replace(model, seconds_per_case=seconds, engine=engine)  # noqa: PLW2901
            except SGNetError as error:
                logger.warning("%s: not timed: %s", model.name, error)
        models.append(model)
    return replace(results, models=tuple(models))


def count_parameters(network: torch.nn.Module) -> int:
    """Return the number of parameters that training may change, those that are shared once."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def seconds_per_case(
    trained: TrainedModel, preprocessed: Path, cases: Sequence[str], *, device: str = "cpu"
) -> tuple[float, str]:
    """Measure the time of a network with the engine that `sgnet predict` chooses for it, without mirroring.

    Reading, preprocessing and writing are left out. See `with_costs`.

    Returns:
        The median over the cases in seconds, and the engine: `sparse`, `whole` or `tiled, step 0.5`.

    Raises:
        SGNetError: If a case has not been preprocessed for the model's configuration, or there is no such
            device.
    """
    options, where = PredictionOptions(device=device), find_device(device)
    plans = trained.folder / "plans.json"
    settings = configuration_of(plans, trained.description.plans, trained.configuration)
    engine = build_engine(trained.network, trained.weights, device=where)
    name = choose_engine(trained.network, options.engine, where)
    if engine is None:
        engine = TiledEngine(trained, device=where, step_size=options.step_size)
        name = f"{name}, step {options.step_size:g}"
    # The first pass chooses kernels and reserves memory.
    corner = (slice(None), *(slice(size) for size in (1, *settings.patch_size)[-3:]))
    engine.logits(np.ascontiguousarray(_preprocessed(trained, settings, preprocessed, cases[0])[corner]))
    seconds = []
    for case in cases:
        image = _preprocessed(trained, settings, preprocessed, case)
        start = perf_counter()
        engine.logits(image)
        seconds.append(perf_counter() - start)
    return statistics.median(seconds), name


def _load(folder: Path, fold: str, *, trust: bool) -> TrainedModel | None:
    present = [name for name in CHECKPOINTS if (folder / f"fold_{fold}" / name).is_file()]
    if not present:
        logger.warning("%s: parameters unknown: fold_%s has no weights", folder, fold)
        return None
    try:
        return load_trained_model(folder, folds=(fold,), checkpoint=present[0], trust=trust)
    except SGNetError as error:
        logger.warning("%s: parameters unknown: its network cannot be built (%s)", folder, error)
        return None


def _preprocessed(
    trained: TrainedModel, settings: Configuration, preprocessed: Path, case: str
) -> NDArray[np.float32]:
    """Return a preprocessed image as the network takes it, shape (channels, z, y, x).

    A cascade's second stage gets an empty first stage, which takes as long as any other.
    """
    folder = preprocessed / settings.data_identifier
    try:
        dataset = infer_dataset_class(str(folder))(str(folder), [case])
        with without_pickles():
            data = np.asarray(dataset.load_case(case)[0][:], dtype=np.float32)
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        remedy = "run nnUNetv2_preprocess, or give --time-cases 0"
        raise SGNetError(f"{folder}: no preprocessed {case}; {remedy}") from error
    if settings.previous_stage is None:
        return data
    classes = len(trained.description.labels.foreground_labels)
    return np.concatenate([data, np.zeros((classes, *data.shape[1:]), dtype=np.float32)])
