"""Schemas of nnU-Net's and this package's JSON files, checked where the files are read.

Other fields are ignored: nnU-Net and others add their own.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from sgnet_nnunet.errors import InputFileError

Content = TypeVar("Content")

Word = Annotated[str, Meta(pattern=r"^\w+$")]
"""The name of a class or function."""

FileName = Annotated[str, Meta(pattern=r"^[^/\\\x00]+$", max_length=255)]
"""One part of a path, so that what is named stays in its folder."""

Checksum = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Axis = Annotated[int, Meta(ge=0, le=2)]
Spacing = Annotated[float, Meta(ge=1e-3, le=1e3)]
Voxels = Annotated[int, Meta(ge=1, le=4096)]
Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
Label = Annotated[int, Meta(ge=0, le=65535)]
Size = Annotated[float, Meta(ge=0, le=1e9)]
Share = Annotated[float, Meta(ge=0, le=1.001)]  # a mean in single precision may be 1.0000001

_SHOWN = 60  # characters of a wrong value


class PlansFile(Struct):
    """`plans.json`; each configuration, with what it inherits, is a `Configuration`."""

    image_reader_writer: Word
    transpose_forward: tuple[Axis, Axis, Axis]
    transpose_backward: tuple[Axis, Axis, Axis]
    configurations: dict[str, dict[str, Any]]
    dataset_name: FileName | None = None
    label_manager: Word = "LabelManager"
    foreground_intensity_properties_per_channel: dict[str, dict[str, Finite]] | None = None
    foreground_intensity_properties_by_modality: dict[str, dict[str, Finite]] | None = None
    sgnet_missing_channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Require that one order of axes undoes the other."""
        if any(self.transpose_forward[axis] != i for i, axis in enumerate(self.transpose_backward)):
            raise ValueError("`transpose_backward` does not undo `transpose_forward`")

    @property
    def intensities(self) -> dict[str, dict[str, float]]:
        """Intensity statistics of the training images, by the number of the channel."""
        now, before = "per_channel", "by_modality"
        found = (getattr(self, f"foreground_intensity_properties_{name}") for name in (now, before))
        return next((each for each in found if each is not None), {})


class Architecture(Struct):
    """The network of a configuration."""

    network_class_name: str
    arch_kwargs: dict[str, Any]
    requires_import: list[str] = msgspec.field(name="_kw_requires_import", default_factory=list)


class Resampling(Struct):
    """Arguments of nnU-Net's resampling functions."""

    is_seg: bool = False
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: Finite = 3
    num_threads: Annotated[int, Meta(ge=1, le=1024)] = 4
    memefficient_seg_resampling: bool = False
    mode: Literal["linear"] = "linear"
    aniso_axis_mode: Literal["nearest-exact", "nearest", "linear"] = "nearest-exact"
    order: Annotated[int, Meta(ge=0, le=5)] = 3
    order_z: Annotated[int, Meta(ge=0, le=5)] = 0


class Configuration(Struct):
    """One of a plan's configurations, with what it inherits."""

    spacing: Annotated[tuple[Spacing, ...], Meta(min_length=2, max_length=3)]
    patch_size: Annotated[tuple[Voxels, ...], Meta(min_length=2, max_length=3)]
    normalization_schemes: Annotated[tuple[Word, ...], Meta(min_length=1)]
    use_mask_for_norm: Annotated[tuple[bool, ...], Meta(min_length=1)]
    resampling_fn_data: Word
    resampling_fn_probabilities: Word
    resampling_fn_data_kwargs: dict[str, Any]
    resampling_fn_probabilities_kwargs: dict[str, Any]
    data_identifier: FileName = ""
    preprocessor_name: Word = "DefaultPreprocessor"
    previous_stage: str | None = None
    architecture: Architecture | None = None

    def __post_init__(self) -> None:
        """Require lists that fit each other."""
        for one, other in (("spacing", "patch_size"), ("normalization_schemes", "use_mask_for_norm")):
            if len(getattr(self, one)) != len(getattr(self, other)):
                raise ValueError(f"`{one}` and `{other}` differ in length")


class DatasetFile(Struct):
    """`dataset.json`."""

    labels: Annotated[dict[str, Label | Annotated[list[Label], Meta(min_length=1)]], Meta(min_length=1)]
    file_ending: Annotated[str, Meta(pattern=r"^(\.\w+)+$")]
    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None
    regions_class_order: list[Label] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image channels, in order."""
        return tuple((self.channel_names or self.modality or {}).values())

    def __post_init__(self) -> None:
        """Require what nnU-Net requires of channels and labels."""
        if not self.channels:
            raise ValueError("holds no `channel_names`")
        if self.labels.get("background") != 0:
            raise ValueError("`labels` holds no `background` of 0")
        given = [value for name, value in self.labels.items() if name != "ignore"]
        values = sorted({each for value in given for each in (value if isinstance(value, list) else [value])})
        if values != list(range(len(values))):
            raise ValueError(f"`labels` are not consecutive: {values}")
        if self.labels.get("ignore", len(values)) != len(values):
            raise ValueError(f"`labels` holds an `ignore` that is not the highest, {len(values)}")
        if not set(self.regions_class_order or ()) <= set(values):
            raise ValueError("`regions_class_order` holds values that are not in `labels`")


class Split(Struct):
    """One fold of `splits_final.json`."""

    train: list[FileName]
    val: list[FileName]


class Header(Struct):
    """How every JSON file of this package starts."""

    format: str = ""
    version: int = 0


def check(path: Path, content: object, kind: type[Content], *, remedy: str, at: str = "$") -> Content:
    """Return the content of a file, or its part at the field `at`, as the `kind` that it must be.

    Raises:
        InputFileError: If it is not; it names the field, what it should hold and what it holds.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
        place = place.strip("`") or "$"
        wanted = problem.replace("`", "").partition(", got ")[0]
        wanted = wanted[0].lower() + wanted[1:]
        raise InputFileError(
            path, f"{at}{place[1:]}: {wanted}, got {_held(content, place)}", remedy
        ) from error
    except UnicodeEncodeError as error:
        raise InputFileError(path, f"{at}: holds a text that is not Unicode", remedy) from error
    except SystemError as error:  # of msgspec before 0.22, for an integer that no float holds
        raise InputFileError(path, f"{at}: holds a number that is too large", remedy) from error


def _held(content: object, place: str) -> str:
    """Return what is at a place such as `$.a.b[0]`, shortened; up to the `[...]` of a dictionary's value."""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place.partition("[...]")[0]):
        content = content[name] if name else content[int(index)]  # type: ignore[index]
    text = repr(content)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
