"""What each `--target` needs, and the labels it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.collection import Part
from sgnet_nnunet.conversion.options import TargetName


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
        shape = next(iter(masks.values())).shape
        labels = np.zeros(shape, np.uint8)
        for part, label in self.masks.items():
            labels[masks[part]] = label
        return labels


TARGETS: Mapping[TargetName, Target] = {
    "whole": Target(
        masks={"whole_seg": 1},
        description={"labels": {"background": 0, "whole_tumor": 1}},
    ),
    "core": Target(
        masks={"core_seg": 1},
        description={"labels": {"background": 0, "tumor_core": 1}},
    ),
    "regions": Target(
        masks={"whole_seg": 1, "core_seg": 2},
        description={
            "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
            "regions_class_order": [1, 2],
        },
    ),
}
