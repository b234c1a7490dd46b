"""Models from untrusted sources: allow-lists for the contents of checkpoints and for class names.

With `trust`, the option `--trust`, everything is done as nnU-Net does it: pickles and foreign classes run.
"""

import pickle
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import files
from pathlib import Path
from typing import Annotated, Any

import nnunetv2
import numpy as np
import torch
from msgspec import Meta, Struct, field
from torch import Tensor
from torch.serialization import safe_globals

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import open_archive
from sgnet_nnunet.nnunet import TRAINED_ON
from sgnet_nnunet.plugin.shims import SHIMS, TRAINERS
from sgnet_nnunet.schemas import Architecture, Axis, Configuration, PlansFile, Resampling, check

_REMEDY = (
    "it could run any program: pass --trust (in a training: set SGNET_TRUST=1) if you trust whoever made "
    "the model"
)
_COPY = "copy the model's folder again, or train again"

_MULTIARRAY = import_module(np.float32(0).__reduce__()[0].__module__)
_NUMPY: list[Any] = [
    np.dtype,
    np.ndarray,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdFDSU"},
    # NumPy 1 and 2 name the same functions differently.
    *((_MULTIARRAY.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_MULTIARRAY._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
"""NumPy types in nnU-Net's checkpoints, next to the weights: the numbers of the log."""

_CLASS = r"[A-Za-z]\w*"
_NETWORKS = re.compile(
    rf"sgnet_nnunet\.networks\.\w+\.{_CLASS}|dynamic_network_architectures\.architectures\.\w+\.{_CLASS}"
    r"|monai\.networks\.nets\.(unet\.)?UNet|monai\.networks\.nets\.(attentionunet\.)?AttentionUnet"
)
_LAYERS = re.compile(
    rf"torch\.nn\.(modules\.\w+\.)?[A-Z]\w*|dynamic_network_architectures\.building_blocks\.\w+\.{_CLASS}"
)
_BY_EITHER = {"is_seg", "force_separate_z", "separate_z_anisotropy_threshold"}
RESAMPLINGS = {
    "resample_torch_fornnunet": _BY_EITHER
    | {"num_threads", "memefficient_seg_resampling", "mode", "aniso_axis_mode"},
    "resample_data_or_seg_to_shape": _BY_EITHER | {"order", "order_z"},
    "no_resampling_hack": set(),
}
"""nnU-Net's resampling functions, and the arguments that plans may give them."""

_NAMES = {
    "image_reader_writer": {
        *("NibabelIO", "NibabelIOWithReorient", "SimpleITKIO", "SimpleITKIOWithReorient"),
        *("Tiff3DIO", "NaturalImage2DIO"),
    },
    "label_manager": {"LabelManager"},
    "preprocessor_name": {"DefaultPreprocessor"},
    "normalization_schemes": {
        *("ZScoreNormalization", "CTNormalization", "NoNormalization"),
        *("RescaleTo01Normalization", "RGBTo01Normalization"),
        *(name for shim in SHIMS for name in shim.names if "Normalization" in name),
    },
    "resampling_fn_data": set(RESAMPLINGS),
    "resampling_fn_probabilities": set(RESAMPLINGS),
}
"""The classes and functions that plans may name: nnU-Net's own and this package's."""

LARGEST_ARGUMENT = 4096
"""Of a network: more channels or blocks than any has, and few enough for memory."""


class Arguments(Struct):
    """What is used here of a checkpoint's `init_args`; the cases are those that it was trained on."""

    configuration: str
    training_cases: tuple[str, ...] = field(name=TRAINED_ON, default=())


class Checkpoint(Struct):
    """What is used here of nnU-Net's checkpoints.

    Attributes:
        network_weights: Dense tensors on the CPU.
        inference_allowed_mirroring_axes: Spatial axes that may be mirrored, 0 for z.
    """

    trainer_name: str
    init_args: Arguments
    network_weights: dict[str, Tensor]
    inference_allowed_mirroring_axes: tuple[Axis, ...] | None = None


class TrainingState(Checkpoint, kw_only=True):
    """What a training that is continued needs of a checkpoint; the log has a list of values for each key."""

    optimizer_state: dict[str, Any]
    logging: dict[str, list[Any]]
    current_epoch: Annotated[int, Meta(ge=0)]
    best_score: Any = field(name="_best_ema")


def read_checkpoint(path: Path, *, trust: bool = False) -> Checkpoint:
    """Read a checkpoint of nnU-Net; without `trust`, nothing but tensors, containers and numbers.

    Raises:
        InputFileError: If the file is damaged, is no checkpoint, or holds objects of other kinds.
    """
    content = load_pickle(path, trust=trust)
    found = check(path, content, Checkpoint, remedy="name a checkpoint of nnU-Net v2")
    for name, values in found.network_weights.items():
        dense = values.layout is torch.strided and values.device.type == "cpu" and not values.is_quantized
        if not dense or values.numel() * values.element_size() > values.untyped_storage().nbytes():
            raise InputFileError(path, f"weight {name} is no dense tensor", "train again")
    return found


def load_pickle(path: Path, *, trust: bool = False) -> Any:  # noqa: ANN401 - what a pickle can hold
    """Return what PyTorch has saved to a file, on the CPU.

    Raises:
        InputFileError: If it cannot be read, or without `trust` if it holds more than an allow-list has.
    """
    try:
        with open_archive(path) as file, safe_globals(_NUMPY):
            return torch.load(file, map_location="cpu", weights_only=not trust)
    except SGNetError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        text = " ".join(str(error).split())
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", text)):
            raise InputFileError(path, f"holds more than weights ({found[1]})", _REMEDY) from None
        detail = text[:200] or type(error).__name__
        raise InputFileError(path, f"cannot be read ({detail})", _COPY) from error


def check_names(
    path: Path, content: Mapping[str, Any], settings: Configuration, *, trust: bool = False
) -> None:
    """Refuse plans that name classes or functions which are neither nnU-Net's own nor this package's.

    Raises:
        InputFileError: If they do and `trust` is not given, or an argument is out of range.
    """
    plans = check(path, content, PlansFile, remedy=_COPY)
    architecture = settings.architecture
    if architecture and not _largest(architecture.arch_kwargs) <= LARGEST_ARGUMENT:
        problem = (
            f"arch_kwargs holds a number above {LARGEST_ARGUMENT}, a longer list, or one that is not a number"
        )
        raise InputFileError(path, problem, _COPY)
    if trust:
        return
    for key, allowed in _NAMES.items():
        named = getattr(plans if hasattr(plans, key) else settings, key)
        for name in named if isinstance(named, tuple) else (named,):
            if name not in allowed:
                problem = f"{key} {name} is neither nnU-Net's own nor this package's"
                raise InputFileError(path, problem, _REMEDY)
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        given = getattr(settings, f"{key}_kwargs")
        check(path, given, Resampling, remedy=_COPY, at=f"{key}_kwargs")
        if unknown := set(given) - RESAMPLINGS[getattr(settings, key)]:
            problem = f"{key}_kwargs holds {min(unknown)}, which is no argument of {getattr(settings, key)}"
            raise InputFileError(path, problem, _COPY)
    if architecture:
        _check_architecture(path, architecture)


def _check_architecture(path: Path, architecture: Architecture) -> None:
    if not _NETWORKS.fullmatch(architecture.network_class_name):
        problem = f"network_class_name {architecture.network_class_name} is not on the list of networks"
        raise InputFileError(path, problem, _REMEDY)
    for key in architecture.requires_import:
        name = architecture.arch_kwargs.get(key)
        if name is not None and not _LAYERS.fullmatch(str(name)):
            raise InputFileError(path, f"{key} {name} is not on the list of layers", _REMEDY)


def _largest(value: object) -> float:
    """Return the largest number, or length, in nested lists and dictionaries; infinity for NaN."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return max(map(_largest, value), default=0) if len(value) <= LARGEST_ARGUMENT else float("inf")
    if isinstance(value, int | float):
        return abs(value) if value == value else float("inf")  # noqa: PLR0124 - NaN
    return 0


def find_trainer(folder: Path, name: str, *, trust: bool = False) -> Any:  # noqa: ANN401 - a class
    """Return a model folder's trainer: this package's, nnU-Net's own or, with `trust`, any that is found.

    Raises:
        InputFileError: If there is none.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415

    for shim in SHIMS:
        if shim.folder == TRAINERS and name in shim.names:
            return getattr(import_module(shim.module), name)
    module = _own_module(name) if name.isidentifier() else None
    try:
        found: object = getattr(import_module(module), name, None) if module else None
    except ImportError as error:  # nnU-Net's own release may lack what its trainers import
        problem = f"its trainer {name} cannot be imported ({error})"
        raise InputFileError(folder, problem, "install what it needs") from error
    if found is None and trust:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name  # noqa: PLC0415

        try:
            found = recursive_find_trainer_class_by_name(name)
        except (RuntimeError, AssertionError, TypeError) as error:
            remedy = "install its package, or run sgnet doctor"
            raise InputFileError(folder, f"its trainer {name} is not installed", remedy) from error
    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        problem = f"its trainer {name} is neither nnU-Net's own nor this package's"
        raise InputFileError(folder, problem, _REMEDY)
    return found


def _own_module(name: str) -> str | None:
    """Return the module of nnU-Net's own trainer of this name, found without importing any."""
    folder = Path(nnunetv2.__file__).parent
    # An installed package has a list of its files; in a clone every file counts as nnU-Net's own.
    listed = [Path(file.locate()) for file in files("nnunetv2") or ()]
    own = [path for path in listed if folder / TRAINERS in path.parents] or (folder / TRAINERS).rglob("*.py")
    for path in own:
        text = path.read_text(encoding="utf-8") if path.suffix == ".py" and path.is_file() else ""
        if re.search(rf"^class {re.escape(name)}\b", text, re.MULTILINE):
            return ".".join(("nnunetv2", *path.relative_to(folder).with_suffix("").parts))
    return None
