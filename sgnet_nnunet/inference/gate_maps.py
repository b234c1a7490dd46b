"""What a trained model's gates and its network say about one case."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import gates_of_image


@dataclass(frozen=True)
class GatedCase:
    """A case on the network's own grid, every array of shape (z, y, x).

    Attributes:
        name: Name of the case.
        image: Preprocessed image, shape (channels, z, y, x).
        spacing: Voxel size in mm along z, y, x.
        gates: Where each gate is open, by the resolution it decides at, coarsest first.
        prediction: Where the network sees foreground of any kind.
        reference: Where the reference has any; None without a reference.
    """

    name: str
    image: NDArray[np.float32]
    spacing: tuple[float, float, float]
    gates: dict[str, NDArray[np.bool_]]
    prediction: NDArray[np.bool_]
    reference: NDArray[np.bool_] | None


def look_at_case(
    predictor: nnUNetPredictor, name: str, images: list[Path], *, reference: Path | None = None
) -> GatedCase:
    """Run a model on one case and return what its gates admit and what it predicts.

    Args:
        predictor: A trained model; see `inference.model.load_predictor`.
        name: Name of the case.
        images: Its files, one a channel.
        reference: Its reference mask, or None.

    Raises:
        SGNetError: If the model's network has no gates.
    """
    network = predictor.network
    if not isinstance(network, SGNet) or not network.gate_names:
        raise SGNetError(
            f"{predictor.trainer_name}: its network has no gates to look at; name a model of SGNetTrainer"
        )
    configuration = predictor.configuration_manager
    data, labels, _ = configuration.preprocessor_class(verbose=False).run_case(
        [str(path) for path in images],
        None if reference is None else str(reference),
        predictor.plans_manager,
        configuration,
        predictor.dataset_json,
    )
    image = torch.from_numpy(np.asarray(data, dtype=np.float32))
    logits = predictor.predict_logits_from_preprocessed_data(image)
    network.load_state_dict(predictor.list_of_parameters[0])
    masks = gates_of_image(network.eval(), image.to(predictor.device), configuration.patch_size)
    foreground = (logits > 0).any(0) if predictor.label_manager.has_regions else logits.argmax(0) > 0
    z, y, x = configuration.spacing
    return GatedCase(
        name=name,
        image=image.numpy(),
        spacing=(float(z), float(y), float(x)),
        gates={key: mask[0, 0].numpy() for key, mask in zip(network.gate_names, masks, strict=True)},
        prediction=foreground.cpu().numpy(),
        reference=None if labels is None else np.asarray(labels[0]) > 0,
    )
