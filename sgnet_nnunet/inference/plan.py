"""A model's plan and labels, read without PyTorch.

`read_description` reads what every model's folder says; `read_plan` adds the configuration's pre- and
postprocessing, and refuses with `UnsupportedPlanError` what cannot be reproduced exactly without PyTorch.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.schemas import Configuration, DatasetFile, PlansFile, check

FEWEST_LABELS_OF_UINT16 = 255
"""From so many foreground labels on nnU-Net writes 16 bits, see its `export_prediction`."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a data set; the names are those of nnU-Net's `LabelManager`.

    Attributes:
        has_regions: Whether each head is a region of its own, so that they may overlap.
        heads: Output heads: labels with background, or regions.
        foreground_labels: Values in masks, other than 0 and the ignored one.
        regions_class_order: Value that each region writes, one over the other; empty without regions.
    """

    has_regions: bool
    heads: int
    foreground_labels: tuple[int, ...]
    regions_class_order: tuple[int, ...]

    @property
    def mask_type(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """Type of a mask's voxels, as nnU-Net's `export_prediction` chooses it."""
        wide = len(self.foreground_labels) >= FEWEST_LABELS_OF_UINT16
        return np.dtype(np.uint16) if wide else np.dtype(np.uint8)


def labels_of(names: Mapping[str, Any], regions_class_order: Sequence[int] | None) -> Labels:
    """Return the labels that a `dataset.json` declares by its `labels` and `regions_class_order`.

    Raises:
        ValueError: If regions come without their order, or with one of another length.
    """
    given = [value for name, value in names.items() if name != "ignore"]
    values = [tuple(map(int, value if isinstance(value, list | tuple) else [value])) for value in given]
    has_regions = any(len(value) > 1 for value in values)
    every = set().union(*values)
    regions = [value for value in values if set(value) != {0}]
    order = tuple(int(value) for value in regions_class_order or ()) if has_regions else ()
    if has_regions and len(order) != len(regions):
        raise ValueError(f"regions_class_order has {len(order)} entries for {len(regions)} regions")
    return Labels(
        has_regions=has_regions,
        heads=len(regions) if has_regions else len(every),
        foreground_labels=tuple(sorted(every - {0})),
        regions_class_order=order,
    )


MISSING_CHANNELS = "sgnet_missing_channels"
"""Key of a model's `plans.json` with the names of the channels that it was trained to do without."""

RESAMPLING = "resample_torch_fornnunet"
"""nnU-Net's linear interpolation by PyTorch, which `preprocessing.resample` equals."""

DIMENSIONS = 3

_REMEDY = "copy the model's folder again, or export the model again"


class UnsupportedPlanError(InputFileError):
    """A valid plan whose pre- or postprocessing needs nnU-Net's own code, and PyTorch."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What `plans.json` and `dataset.json` say of a model, whatever its configuration.

    Attributes:
        plans: The content of `plans.json`.
        dataset: The content of `dataset.json`.
        reader: Name of nnU-Net's class that reads images and writes masks.
        file_ending: Ending of images and masks, such as `.nii.gz`.
        channels: Names of the image channels, in order.
    """

    plans: dict[str, Any]
    dataset: dict[str, Any]
    reader: str
    file_ending: str
    channels: tuple[str, ...]
    labels: Labels

    @property
    def optional_channels(self) -> frozenset[int]:
        """Numbers of the channels that the model was trained to do without; missing ones are all 0."""
        spared = self.plans.get(MISSING_CHANNELS, ())
        return frozenset(number for number, name in enumerate(self.channels) if name in spared)


@dataclass(frozen=True, kw_only=True)
class Plan(ModelDescription):
    """How images become the network's input, and its logits masks.

    Attributes:
        transpose_forward: Axis of the image for each of the network's axes; `transpose_backward` inverts it.
        spacing: Voxel size in mm that the network works at, along its own z, y, x.
        normalisations: Name of nnU-Net's normalisation, for each channel.
        masked: Whether it looks at non-zero voxels alone, for each channel.
        intensities: Intensity statistics of the training images, for each channel.
    """

    transpose_forward: tuple[int, int, int]
    transpose_backward: tuple[int, int, int]
    spacing: tuple[float, float, float]
    normalisations: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: tuple[dict[str, float], ...]


def read_description(folder: Path) -> ModelDescription:
    """Read what `plans.json` and `dataset.json` in a model's folder say of its images and labels.

    Raises:
        InputFileError: If a file cannot be read or lacks something.
    """
    path = folder / "plans.json"
    plans, dataset = (read_json(each, remedy=_REMEDY) for each in (path, folder / "dataset.json"))
    planned = check(path, plans, PlansFile, remedy=_REMEDY)
    described = check(folder / "dataset.json", dataset, DatasetFile, remedy=_REMEDY)
    with _usable(folder / "dataset.json"):
        labels = labels_of(described.labels, described.regions_class_order)
    return ModelDescription(
        plans=plans,
        dataset=dataset,
        reader=planned.image_reader_writer,
        file_ending=described.file_ending,
        channels=described.channels,
        labels=labels,
    )


def read_plan(folder: Path, configuration: str) -> Plan:
    """Read how to predict with a model's configuration, such as `3d_fullres`.

    Raises:
        UnsupportedPlanError: If the plan asks for something that cannot be done exactly without PyTorch.
        InputFileError: If a file cannot be read or lacks something.
    """
    path, description = folder / "plans.json", read_description(folder)
    channels = len(description.channels)
    plans = check(path, description.plans, PlansFile, remedy=_REMEDY)
    settings = configuration_of(path, description.plans, configuration)
    for reason in _unsupported(plans, settings):
        raise UnsupportedPlanError(path, reason, "predict with the trained model's own folder")
    with _usable(path):
        return Plan(
            **vars(description),
            transpose_forward=_of_length(plans.transpose_forward, DIMENSIONS),
            transpose_backward=_of_length(plans.transpose_backward, DIMENSIONS),
            spacing=_of_length(settings.spacing, DIMENSIONS),
            normalisations=_of_length(settings.normalization_schemes, channels),
            masked=_of_length(settings.use_mask_for_norm, channels),
            intensities=tuple(plans.intensities[str(channel)] for channel in range(channels)),
        )


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn the errors that invalid contents cause into one InputFileError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"missing entry {error}" if isinstance(error, KeyError) else str(error)
        raise InputFileError(path, f"with dataset.json, holds no usable plan ({detail})", _REMEDY) from error


def configuration_of(path: Path, plans: Mapping[str, Any], name: str) -> Configuration:
    """Return a configuration's settings with what it inherits from others.

    Raises:
        InputFileError: If the plans, read from `path`, have no such configuration, or it is invalid.
    """
    configurations, chain = plans["configurations"], []
    each: Any = name
    while isinstance(each, str) and each in configurations and each not in chain:
        chain.append(each)
        each = configurations[each].get("inherits_from")
    if each is not None or not chain:
        remedy = f"name one of these: {', '.join(configurations)}"
        raise InputFileError(path, f"has no usable configuration {each}", remedy)
    settings = {key: value for each in reversed(chain) for key, value in configurations[each].items()}
    return check(path, settings, Configuration, remedy=_REMEDY, at=f"$.configurations.{name}")


def _unsupported(plans: PlansFile, settings: Configuration) -> Iterator[str]:
    """Yield what would have to be approximated without PyTorch."""
    if settings.previous_stage is not None:
        yield "is the second stage of a cascade"
    if len(settings.spacing) != DIMENSIONS:
        yield "is a 2D configuration"
    for key, given, supported in (
        ("preprocessor", settings.preprocessor_name, "DefaultPreprocessor"),
        ("label manager", plans.label_manager, "LabelManager"),
        ("resampling of images", settings.resampling_fn_data, RESAMPLING),
        ("resampling of probabilities", settings.resampling_fn_probabilities, RESAMPLING),
    ):
        if given != supported:
            yield f"{key} {given} needs PyTorch, {supported} does not"
    for scheme in settings.normalization_schemes:
        if not _is_known_normalisation(scheme):
            yield f"normalisation {scheme} is neither nnU-Net's own nor SG-Net's"
    for key in ("resampling_fn_data_kwargs", "resampling_fn_probabilities_kwargs"):
        options = getattr(settings, key)
        if options.get("is_seg", False) or options.get("force_separate_z") is not False:
            yield f"{key} must say is_seg false and force_separate_z false; got {json.dumps(options)}"


def _is_known_normalisation(name: str) -> bool:
    from nnunetv2.preprocessing.normalization import default_normalization_schemes  # noqa: PLC0415

    from sgnet_nnunet.planning.normalization import PERCENTILE_SCHEMES  # noqa: PLC0415

    return name in PERCENTILE_SCHEMES or hasattr(default_normalization_schemes, name)


def _of_length(values: Sequence[object], length: int) -> Any:  # noqa: ANN401
    if len(values) != length:
        raise ValueError(f"{length} values were expected, got {len(values)}: {values}")
    return values
