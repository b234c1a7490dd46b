"""Where the gates of a trained SG-Net are enabled in one case, and what the network predicts there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.plan import configuration_of
from sgnet_nnunet.inference.postprocessing import HALF
from sgnet_nnunet.inference.predictor import PredictionOptions, Predictor
from sgnet_nnunet.inference.preprocessing import grid_weights, resample
from sgnet_nnunet.inference.trained_model import find_device, load_trained_model, model_of
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nifti import grid_of, read_channel
from sgnet_nnunet.training.gate_monitor import gates_of_image


@dataclass(frozen=True)
class GatedCase:
    """A case on the network's own grid, every array of shape (z, y, x).

    Attributes:
        image: Preprocessed image, shape (channels, z, y, x).
        spacing: Voxel size in mm along z, y, x.
        gates: Where each gate is enabled, by the resolution it decides at, coarsest first.
        prediction: Where the network predicts foreground of any class.
        reference: Where the reference has any; None without a reference.
    """

    name: str
    image: NDArray[np.float32]
    spacing: tuple[float, ...]
    gates: dict[str, NDArray[np.bool_]]
    prediction: NDArray[np.bool_]
    reference: NDArray[np.bool_] | None


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
        checkpoint: str = "checkpoint_final.pth",
        device: str = "cpu",
        trust: bool = False,
    ) -> None:
        self.trained = trained = load_trained_model(folder, folds=(fold,), checkpoint=checkpoint, trust=trust)
        self.device = find_device(device)
        options = PredictionOptions(device=device)
        self.predictor = Predictor([model_of(trained, options, self.device)], options=options)
        self.gate_names: Sequence[str] = getattr(trained.network, "gate_names", ())


def look_at_case(
    model: GatedModel, name: str, images: Sequence[Path], *, reference: Path | None = None
) -> GatedCase:
    """Run a model on a case's files, one a channel, and return its gate masks and its prediction.

    Raises:
        InputFileError: If an image cannot be used, or the reference is not on the images' grid.
        SGNetError: If the model's network has no gates.
    """
    trained, predictor = model.trained, model.predictor
    network, description = trained.network, trained.description
    if not isinstance(network, SGNet) or not network.gate_names:
        raise SGNetError(f"{trained.trainer}: its network has no gates; name a model of SGNetTrainer")
    (prepared,) = predictor.preprocess(images)
    (logits,) = predictor.run_engines([prepared], images[0])
    settings = configuration_of(trained.folder / "plans.json", description.plans, trained.configuration)
    image = torch.from_numpy(prepared.image).to(model.device)
    masks = gates_of_image(network.to(model.device), image, settings.patch_size)
    foreground = (logits > 0).any(0) if description.labels.has_regions else logits.argmax(0) > 0
    on_grid = None
    if reference is not None:
        on_grid = _on_grid(reference, images, model, prepared.properties, foreground.shape)
    return GatedCase(
        name=name,
        image=prepared.image,
        spacing=settings.spacing,
        gates={key: mask[0, 0].numpy() for key, mask in zip(network.gate_names, masks, strict=True)},
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
    here, there = (grid_of(labels.shape, found) for found in (its, properties))
    labels = labels.transpose(description.plans["transpose_forward"])
    same_shape = labels.shape == tuple(properties["shape_before_cropping"])
    if not same_shape or (here and there and not here.same_place_as(there)):
        remedy = f"resample it onto the grid of {images[0]}"
        raise InputFileError(reference, "is on another grid than the images", remedy)
    labels = labels[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])]
    foreground = (labels > 0) & (labels != description.dataset["labels"].get("ignore", 0))
    share = resample(foreground.astype(np.float32), grid_weights(labels.shape, shape))
    return np.asarray(share > HALF)
