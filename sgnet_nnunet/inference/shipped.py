"""The model in the package: `synthetic`, trained on phantom patients alone.

Its folder `models/synthetic-VERSION` contains a training's folder as nnU-Net has it, the same network for
OpenVINO, the weights as `weights.safetensors`, and the model card. `tools/synthetic.py` writes it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.predictor import PredictionOptions, needs_training
from sgnet_nnunet.nnunet import ALL, CHECKPOINT

logger = logging.getLogger(__name__)

SYNTHETIC = "synthetic"
"""What a model is called in place of its folder."""

MODELS = Path(__file__).parents[1] / "models"
OPENVINO, WEIGHTS, CARD = "openvino", "weights.safetensors", "MODEL_CARD.md"


@dataclass(frozen=True)
class ShippedModel:
    """The files of a model in the package.

    Attributes:
        folder: Its folder, called by name and version.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name and version, such as synthetic-2."""
        return self.folder.name

    @property
    def trained(self) -> Path:
        """The training's folder, TRAINER__PLANS__CONFIGURATION."""
        return next(self.folder.glob("*__*__*"))

    @property
    def checkpoint(self) -> Path:
        """The weights as `nnUNetv2_train -pretrained_weights` takes them."""
        return self.trained / f"fold_{ALL}" / CHECKPOINT

    @property
    def weights(self) -> Path:
        """The weights as safetensors."""
        return self.folder / WEIGHTS

    @property
    def card(self) -> Path:
        """What the model was trained on, how well it does, and what it must not be used for."""
        return self.folder / CARD


def shipped_model() -> ShippedModel:
    """Return the model in the package.

    Raises:
        SGNetError: If this installation has none.
    """
    folders = list(MODELS.glob(f"{SYNTHETIC}-*"))
    if not folders:
        raise SGNetError(f"{MODELS}: holds no model {SYNTHETIC}; install sgnet-nnunet again")
    return ShippedModel(max(folders, key=lambda path: int(path.name.removeprefix(f"{SYNTHETIC}-"))))


def find_models(named: Sequence[Path], options: PredictionOptions) -> list[Path]:
    """Return the folders of the models that are named; none, or `synthetic`, is the one in the package.

    Of that one it is the folder for OpenVINO, which needs no PyTorch, where OpenVINO is installed and can do
    what the options ask for. A folder called `synthetic` in the working folder comes first.
    """
    folders = []
    for path in named or [Path(SYNTHETIC)]:
        if named and (path != Path(SYNTHETIC) or path.exists()):
            folders.append(path)
            continue
        model = shipped_model()
        logger.warning("%s: trained on phantom patients alone; see %s", model.name, model.card)
        exported = find_spec("openvino") and not needs_training(options)
        folders.append(model.folder / OPENVINO if exported else model.trained)
    return folders
