"""What a network's heads stand for; nnU-Net's own `LabelManager` needs PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """Return the labels that a `dataset.json` declares.

    Args:
        names: Its `labels`: a value, or a list of values for a region, by name.
        regions_class_order: Its `regions_class_order`, if any.

    Raises:
        ValueError: If regions come without their order, or with one of another length.
    """
    values = {
        name: tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
        for name, value in names.items()
        if name != "ignore"
    }
    has_regions = any(len(value) > 1 for value in values.values())
    every = {value for several in values.values() for value in several}
    regions = [value for value in values.values() if set(value) != {0}]
    order = tuple(int(value) for value in regions_class_order or ()) if has_regions else ()
    if has_regions and len(order) != len(regions):
        raise ValueError(f"regions_class_order has {len(order)} entries for {len(regions)} regions")
    return Labels(
        has_regions=has_regions,
        heads=len(regions) if has_regions else len(every),
        foreground_labels=tuple(sorted(every - {0})),
        regions_class_order=order,
    )
