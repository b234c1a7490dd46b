"""A trained model opened for prediction: its network, its weights and its engine.

nnU-Net's predictor is not needed for that, and neither is its trainer where the plan alone describes
the network: looking a trainer up imports Matplotlib, pandas and scikit-learn, which takes seconds.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import checksum_of
from sgnet_nnunet.inference.engines import Engine, Mirrored
from sgnet_nnunet.inference.operating_point import Provenance, combine_checksums, name_of_model
from sgnet_nnunet.inference.plan import (
    ModelDescription,
    UnsupportedPlanError,
    configuration_of,
    read_description,
    read_plan,
)
from sgnet_nnunet.inference.predictor import Model, PlanProcessing, PredictionOptions, Processing
from sgnet_nnunet.inference.torch_engines import build_engine, choose_engine
from sgnet_nnunet.inference.trust import check_names, find_trainer, read_checkpoint
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nnunet import CHECKPOINT, trained_folds

PLANNED = "SGNetTrainer"
"""The trainer that trains the plan's SG-Net as it is; its subclasses change it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedModel:
    """The content of a training's folder.

    Attributes:
        checkpoints: The file of each fold's weights, by the fold's name, sorted.
        weights: The weights of these folds' networks, in the same order.
        network: The network with the first fold's weights, in evaluation mode, on the CPU.
        mirroring_axes: Spatial axes that may be mirrored, 0 for z.
    """

    folder: Path
    description: ModelDescription
    configuration: str
    trainer: str
    checkpoints: dict[str, Path]
    weights: tuple[Mapping[str, torch.Tensor], ...]
    network: nn.Module
    mirroring_axes: tuple[int, ...]


def load_trained_model(
    folder: Path, *, folds: Sequence[str] = (), checkpoint: str = CHECKPOINT, trust: bool = False
) -> TrainedModel:
    """Load the networks of some folds, by default of all that are trained.

    The folder is nnU-Net's, such as `Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres`.
    Without `trust`, nothing of it is run, see `inference.trust`.

    Raises:
        InputFileError: If weights, `plans.json` or `dataset.json` are missing or unusable, or not finite.
    """
    folds = sorted(set(folds or trained_folds(folder, checkpoint)))
    if not folds:
        remedy = "train the model, or name another -d, -tr, -p, -c"
        raise InputFileError(folder, f"holds no fold_*/{checkpoint}", remedy)
    files = {fold: folder / f"fold_{fold}" / checkpoint for fold in folds}
    for path in files.values():
        if not path.is_file():
            raise InputFileError(path, "there is no such file", "name a trained model, its -f and its -chk")
    description = read_description(folder)
    loaded = [read_checkpoint(path, trust=trust) for path in files.values()]
    configuration = loaded[0].init_args.configuration
    trainer = former_names.present_trainer(loaded[0].trainer_name)
    network = build_network(folder, description, configuration, trainer, trust=trust)
    for path, one in reversed(list(zip(files.values(), loaded, strict=True))):  # the first's stay
        check_weights(path, one.network_weights)
        try:
            network.load_state_dict(dict(one.network_weights))
        except RuntimeError as error:
            raise InputFileError(
                path,
                f"does not fit plans.json and dataset.json ({' '.join(str(error).split())[:200]})",
                "name the folder that the checkpoint was trained in",
            ) from error
    return TrainedModel(
        folder=folder,
        description=description,
        configuration=configuration,
        trainer=trainer,
        checkpoints=files,
        weights=tuple(one.network_weights for one in loaded),
        network=network.eval(),
        mirroring_axes=loaded[0].inference_allowed_mirroring_axes or (),
    )


def training_cases(checkpoint: Path, *, trust: bool = False) -> set[str]:
    """Return the cases that weights were trained on; none for trainers of other packages."""
    return set(read_checkpoint(checkpoint, trust=trust).init_args.training_cases)


def check_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise an InputFileError if a weight is NaN or infinite: many of the network's masks would be empty."""
    bad = [name for name, values in weights.items() if not torch.isfinite(values).all()]
    if bad:
        remedy = "the training has diverged: name an earlier checkpoint by -chk, or train again"
        raise InputFileError(path, f"holds weights that are not finite ({', '.join(bad[:3])})", remedy)


def build_network(
    folder: Path, description: ModelDescription, configuration: str, trainer: str, *, trust: bool
) -> nn.Module:
    """Build the plan's SG-Net, or any network as nnU-Net's `initialize_from_trained_model_folder` does."""
    path = folder / "plans.json"
    planned = configuration_of(path, description.plans, configuration)
    check_names(path, description.plans, planned, trust=trust)
    network, schemes = planned.architecture, len(planned.normalization_schemes)
    if schemes != len(description.channels):
        problem = f"has normalisations for {schemes} channels, dataset.json has {len(description.channels)}"
        raise InputFileError(path, problem, "copy the model's folder again")
    try:
        if trainer == PLANNED and network and network.network_class_name == f"{SGNet.__module__}.SGNet":
            return SGNet(len(description.channels), description.labels.heads, **network.arch_kwargs)
        return _build_by_trainer(find_trainer(folder, trainer, trust=trust), description, configuration)
    except SGNetError:
        raise
    except Exception as error:  # constructors raise anything
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        problem = f"$.configurations.{configuration}.architecture makes no network of {trainer} ({detail})"
        raise InputFileError(path, problem, "copy the model's folder again") from error


def _build_by_trainer(kind: Any, description: ModelDescription, configuration: str) -> nn.Module:  # noqa: ANN401
    from nnunetv2.utilities.label_handling import label_handling  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    plans = PlansManager(description.plans)
    settings = plans.get_configuration(configuration)
    planned: tuple[Any, ...] = (plans, settings)
    if "plans_manager" not in inspect.signature(kind.build_network_architecture).parameters:
        # The signature of nnU-Net before 2.8.
        names = ("class_name", "init_kwargs", "init_kwargs_req_import")
        planned = tuple(getattr(settings, f"network_arch_{name}") for name in names)
    network: nn.Module = kind.build_network_architecture(
        *planned,
        label_handling.determine_num_input_channels(plans, settings, description.dataset),
        plans.get_label_manager(description.dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    return network


def open_trained(folder: Path, options: PredictionOptions) -> Model:
    """Return a trained model, its engine still to be built.

    Raises:
        InputFileError: If weights are missing, or the plan cannot be used.
        SGNetError: If the device is not there, or the network does not allow the engine.
    """
    device = find_device(options.device)
    trained = load_trained_model(
        folder, folds=options.folds, checkpoint=options.checkpoint, trust=options.trust
    )
    return model_of(trained, options, device)


def model_of(trained: TrainedModel, options: PredictionOptions, device: torch.device) -> Model:
    """Return a loaded model as the predictor takes it; see `open_trained`."""
    axes = trained.mirroring_axes if options.mirroring else ()
    engine_name = choose_engine(trained.network, options.engine, device)

    def engine() -> Engine:
        engine = build_engine(
            trained.network,
            trained.weights,
            requested=options.engine,
            runtime=options.runtime,
            precision=options.precision,
            device=device,
            max_memory=options.max_memory,
        )
        if engine is not None:
            return Mirrored(engine, axes) if axes else engine
        from sgnet_nnunet.inference.nnunet_adapter import TiledEngine  # noqa: PLC0415

        return TiledEngine(trained, device=device, step_size=options.step_size, mirroring=bool(axes))

    return Model(
        folder=trained.folder,
        description=trained.description,
        processing=_processing_of(trained, engine_name),
        build_engine=engine,
        device=device.type,
        find_provenance=lambda: Provenance(
            model=name_of_model(trained.folder),
            engine=engine_name,
            folds=tuple(trained.checkpoints),
            weights_sha256=combine_checksums(map(checksum_of, trained.checkpoints.values())),
            mirroring=bool(axes),
            precision=options.precision,
            step_size=options.step_size,
        ),
    )


def _processing_of(trained: TrainedModel, engine_name: str) -> Processing:
    """Return the torch-free processing where it equals nnU-Net's, else nnU-Net's own."""
    try:
        return PlanProcessing(read_plan(trained.folder, trained.configuration))
    except UnsupportedPlanError:
        from sgnet_nnunet.inference.nnunet_adapter import NnunetProcessing  # noqa: PLC0415

        # nnU-Net's sliding window gives half precision, and its resampling rounds to it.
        logits_type = np.float16 if engine_name == "tiled" else np.float32
        return NnunetProcessing(trained, logits_type=logits_type)


def find_device(name: str | None) -> torch.device:
    """Return a device by nnU-Net's name for it; None for cuda if there is one, else the CPU.

    Raises:
        SGNetError: If there is no such device.
    """
    usable = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name = name or ("cuda" if usable["cuda"] else "cpu")
    if not usable.get(name):
        choices = " or ".join(device for device, is_usable in usable.items() if is_usable)
        raise SGNetError(f"-device {name}: not available on this machine; use {choices}")
    return torch.device(name)
