"""Options of a conversion, and the targets that it can segment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.dataset.collection import Part
from sgnet_nnunet.errors import SGNetError

TargetName = Literal["whole", "core", "regions"]
Registration = Literal["none", "rigid"]
Split = Literal["cv", "paper"]

LARGEST_DATASET_ID = 999
"""nnU-Net writes ids with three digits."""


@dataclass(frozen=True)
class ConversionOptions:
    """Options of `convert`, which describes them.

    Raises:
        SGNetError: The id, the name or the number of workers is out of range.
    """

    dataset_id: int = 501
    name: str = "BrainMetsLung"
    target: TargetName = "whole"
    register: Registration = "none"
    split: Split = "cv"
    strict: bool = False
    workers: int = min(4, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        if not 1 <= self.dataset_id <= LARGEST_DATASET_ID:
            raise SGNetError(f"data set id {self.dataset_id} is not between 1 and {LARGEST_DATASET_ID}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise SGNetError(f"data set name {self.name!r} may only hold letters, digits, - and _")
        if self.workers < 1:
            raise SGNetError(f"{self.workers} workers; give 1 or more")

    @property
    def folder_name(self) -> str:
        """Name of the data set's folder, for example `Dataset501_BrainMetsLung`."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A choice of what to segment.

    Attributes:
        masks: The collection's masks it needs beside both images, mapped to their label. Where masks
            overlap, the later one is written over the earlier one.
        description: The entries of dataset.json that say what the labels mean.
    """

    masks: Mapping[Part, int]
    description: Mapping[str, Any]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every file that one accession needs."""
        return ("t1ce_img", "flair_img", *self.masks)

    def label_map(self, masks: Mapping[Part, NDArray[np.bool_]]) -> NDArray[np.uint8]:
        """Return the labels, shape (x, y, z) as the masks', 0 being background."""
        labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
        for part, label in self.masks.items():
            labels[masks[part]] = label
        return labels


TARGETS: Mapping[TargetName, Target] = {
    "whole": Target(masks={"whole_seg": 1}, description={"labels": {"background": 0, "whole_tumor": 1}}),
    "core": Target(masks={"core_seg": 1}, description={"labels": {"background": 0, "tumor_core": 1}}),
    "regions": Target(
        masks={"whole_seg": 1, "core_seg": 2},
        description={
            "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
            "regions_class_order": [1, 2],
        },
    ),
}
