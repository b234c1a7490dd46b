"""Gate masks and prediction of a trained SG-Net in one case, from one pass over the whole image."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.engines import ChunkedEngine, Engine, finite_logits
from sgnet_nnunet.inference.plan import configuration_of, read_description
from sgnet_nnunet.inference.predictor import PredictionOptions, Predictor
from sgnet_nnunet.inference.preprocessing import grid_weights, resample
from sgnet_nnunet.inference.torch_engines import DenseEngine, activation_memory, free_device_memory, torch_run
from sgnet_nnunet.inference.trained_model import build_network, find_device, load_trained_model, model_of
from sgnet_nnunet.networks.gates import on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nifti import check_integers, grid_of, read_channel, values_in
from sgnet_nnunet.nnunet import CHECKPOINT, ModelName

MAJORITY = 0.5
"""Share of a voxel above which it belongs to a resampled reference, as in nnU-Net's preprocessing."""


@dataclass(frozen=True)
class GatedCase:
    """A case on the network's own grid, every array of shape (z, y, x).

    Gates and prediction are of one pass of one fold over the whole image, without mirroring.

    Attributes:
        image: Preprocessed image, shape (channels, z, y, x).
        spacing: Voxel size in mm along z, y, x.
        gates: Where each gate is open, by the resolution it decides at, coarsest first.
        prediction: Where the network predicts foreground of any class.
        reference: Where the reference has any; None without a reference.
    """

    name: str
    image: NDArray[np.float32]
    spacing: tuple[float, ...]
    gates: dict[str, NDArray[np.bool_]]
    prediction: NDArray[np.bool_]
    reference: NDArray[np.bool_] | None


def has_gates(folder: Path, *, trust: bool = False) -> bool:
    """Whether a training's network has gates, by its plan and the trainer of the folder's name.

    The network is built, and no weights are read: the folder need not have any.

    Raises:
        InputFileError: If the model's files cannot be used, or without `trust` the trainer is not known.
    """
    named = ModelName.parse(folder.name)
    trainer = former_names.present_trainer(named.trainer)
    network = build_network(folder, read_description(folder), named.configuration, trainer, trust=trust)
    return bool(getattr(network, "gate_names", ()))


class GatedModel:
    """One fold, a number or `all`, of a trained model, on a device by nnU-Net's name for it.

    Raises:
        InputFileError: If the weights are missing, or the model's files cannot be used.
        SGNetError: If there is no such device.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fold: str = "0",
        checkpoint: str = CHECKPOINT,
        device: str = "cpu",
        trust: bool = False,
    ) -> None:
        self.trained = trained = load_trained_model(folder, folds=(fold,), checkpoint=checkpoint, trust=trust)
        self.device = find_device(device)
        options = PredictionOptions(device=device)
        self.predictor = Predictor([model_of(trained, options, self.device)], options=options)
        self.gate_names: Sequence[str] = getattr(trained.network, "gate_names", ())

    def gated_engine(self) -> Engine:
        """Return an engine whose heads are the logits, then each gate's mask as 0 or 1, coarsest first.

        Raises:
            SGNetError: If the model's network has no gates.
        """
        network = self.trained.network
        if not isinstance(network, SGNet) or not network.gate_names:
            raise SGNetError(
                f"{self.trained.trainer}: its network has no gates; name a model of SGNetTrainer"
            )
        both = _LogitsAndGates(network)
        memory = activation_memory(both, self.device)
        dense = DenseEngine(torch_run(both, self.device), both, memory)
        return ChunkedEngine(dense, free_memory=free_device_memory(self.device))


class _LogitsAndGates(nn.Module):
    """A gated network whose result holds the gate masks after the logits."""

    def __init__(self, network: SGNet) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.network.return_gates = True
        self.input_channels, self.divisor, self.margin = (
            network.input_channels,
            network.divisor,
            network.margin,
        )
        self.num_classes = network.num_classes + len(network.gate_names)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits and masks, shape (batch, heads and gates, z, y, x)."""
        found = self.network(image)
        masks = [on_grid_of(decision.mask, image).to(found.logits.dtype) for decision in found.decisions]
        return torch.cat([found.logits, *masks], dim=1)


def look_at_case(
    model: GatedModel, name: str, images: Sequence[Path], *, reference: Path | None = None
) -> GatedCase:
    """Run a model on a case's files, one a channel, and return its gate masks and its prediction.

    Raises:
        InputFileError: If an image cannot be used, or the reference is not on the images' grid.
        SGNetError: If the model's network has no gates.
    """
    engine, description = model.gated_engine(), model.trained.description
    (prepared,) = model.predictor.preprocess(images)
    found = finite_logits(engine, prepared.image, path=images[0])
    logits, masks = np.split(found, [description.labels.heads])
    plans = model.trained.folder / "plans.json"
    settings = configuration_of(plans, description.plans, model.trained.configuration)
    foreground = (logits > 0).any(0) if description.labels.has_regions else logits.argmax(0) > 0
    on_grid = None
    if reference is not None:
        on_grid = _on_grid(reference, images, model, prepared.properties, foreground.shape)
    return GatedCase(
        name=name,
        image=prepared.image,
        spacing=settings.spacing,
        gates={key: mask > 0 for key, mask in zip(model.gate_names, masks, strict=True)},
        prediction=np.asarray(foreground),
        reference=on_grid,
    )


def _on_grid(
    reference: Path,
    images: Sequence[Path],
    model: GatedModel,
    properties: dict[str, Any],
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Return the foreground of a reference, without ignored voxels, on the network's grid."""
    description = model.trained.description
    labels, its = read_channel(reference, reader=description.reader)
    check_integers(reference, values_in(labels))
    here, there = (grid_of(labels.shape, found) for found in (its, properties))
    labels = labels.transpose(description.plans["transpose_forward"])
    same_shape = labels.shape == tuple(properties["shape_before_cropping"])
    if not same_shape or (here and there and not here.same_place_as(there)):
        remedy = f"resample it onto the grid of {images[0]}"
        raise InputFileError(reference, "is on another grid than the images", remedy)
    labels = labels[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
    foreground = (labels > 0) & (labels != description.dataset["labels"].get("ignore", 0))
    share = resample(foreground.astype(np.float32), grid_weights(labels.shape, shape))
    return np.asarray(share > MAJORITY)
