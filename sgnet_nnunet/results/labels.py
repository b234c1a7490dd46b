"""What is judged: the labels or regions of nnU-Net's `dataset.json`."""

from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.io.json_object import read_json
from sgnet_nnunet.results.case import Target

LARGEST_FOREGROUND = 255
"""Largest value that is foreground where no `dataset.json` says what the values mean."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the values of a data set's masks mean.

    Attributes:
        targets: The labels or regions that are judged, in the order of `dataset.json`.
        known_values: Every value that a mask may have, the background's 0 among them.
        ignored_value: Value of the voxels of a reference that count in neither mask, as in nnU-Net's
            own evaluation; None if there is none.
    """

    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None = None


FOREGROUND = Labels(
    targets=(Target(name="foreground", values=tuple(range(1, LARGEST_FOREGROUND + 1))),),
    known_values=frozenset(range(LARGEST_FOREGROUND + 1)),
)
"""Everything above 0, for folders of masks without a `dataset.json`."""


def read_labels_of(dataset_json: Path) -> Labels:
    """Return what nnU-Net's `dataset.json` says of the masks.

    A label is one value, a region a list of them; background is left out. The label `ignore` is not
    judged either.

    Raises:
        InputFileError: If the file is not there, is not JSON, or has no labels as nnU-Net wants them.
    """
    labels = read_json(dataset_json).get("labels")
    if not isinstance(labels, dict):
        raise InputFileError(dataset_json, "has no labels", "name nnU-Net's dataset.json of the data set")
    values = {str(name): _values(dataset_json, name, value) for name, value in labels.items()}
    ignored = values.pop("ignore", None)
    targets = tuple(Target(name=name, values=found) for name, found in values.items() if set(found) != {0})
    if not targets:
        raise InputFileError(dataset_json, "has no label but the background", "add the label of the lesions")
    known = {0, *(value for found in values.values() for value in found), *(ignored or ())}
    return Labels(
        targets=targets, known_values=frozenset(known), ignored_value=ignored[0] if ignored else None
    )


def _values(dataset_json: Path, name: str, value: object) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values or any(type(entry) is not int or entry < 0 for entry in values):
        raise InputFileError(
            dataset_json, f"label {name!r} is {value!r}", "give an integer of 0 or above, or a list of them"
        )
    return values
