"""Tumour contrast that clipping at the 99.5th percentile removes, in an nnU-Net data set.

    python benchmarks/clipping.py nnUNet_raw/Dataset501_BrainMetsLung

Cases are cropped, and masked or not, as nnU-Net does before it normalises.
"""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from numpy.typing import NDArray
from timing import markdown

from sgnet_nnunet.planning.normalization import (
    MASKED_BELOW,
    PercentileNormalization,
    PercentileTo01Normalization,
)

BRIGHT = 90
"""Percentile of a tumour's voxels that stands for its enhancing part."""

TITLES = {
    "clipped": "tumour voxels clipped",
    "unclipped_contrast": "bright tumour above brain, SD",
    "clipped_contrast": "the same, clipped",
}


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """Effect of the clipping on one channel of a case.

    Attributes:
        clipped: Share of the tumour's voxels above the upper percentile, 0 to 1.
        unclipped_contrast: Distance of the tumour's bright voxels from the median of the other brain, in
            standard deviations of the latter, without clipping.
        clipped_contrast: The same after clipping.
    """

    clipped: float
    unclipped_contrast: float
    clipped_contrast: float


def clipping_of(image: NDArray[np.floating], seg: NDArray[np.number], *, masked: bool) -> Clipping:
    """Measure one channel.

    Args:
        image: A scan whose background is 0, cropped to the rest.
        seg: Labels of the same shape, tumour above 0 and not empty, negative outside the non-zero mask.
        masked: Whether the percentiles are those within the mask.
    """
    tumour = seg > 0
    brain = (image > 0) & ~tumour
    scaled, clipped = (
        kind(use_mask_for_norm=masked, intensityproperties={}).run(image, seg)
        for kind in (PercentileNormalization, PercentileTo01Normalization)
    )
    return Clipping(
        clipped=float((scaled[tumour] > 1).mean()),
        unclipped_contrast=_contrast(scaled, tumour, brain),
        clipped_contrast=_contrast(clipped, tumour, brain),
    )


def _contrast(scaled: NDArray[np.floating], tumour: NDArray[np.bool_], brain: NDArray[np.bool_]) -> float:
    other = scaled[brain]
    return float((np.percentile(scaled[tumour], BRIGHT) - np.median(other)) / other.std())


def clippings(raw: Path) -> list[list[Clipping]]:
    """Return the figures of every channel of every training case with a tumour, as nnU-Net would crop it."""
    labels = sorted((raw / "labelsTr").glob("*.nii.gz"))
    kept = [cropped.size / whole for _, cropped, whole in map(_crop, labels)]
    masked = statistics.median(kept) < MASKED_BELOW
    return [
        [clipping_of(channel, seg, masked=masked) for channel in data]
        for data, seg, _ in map(_crop, labels)
        if (seg > 0).any()
    ]


def _crop(label: Path) -> tuple[NDArray[np.float32], NDArray[np.int8], int]:
    """Return a case's cropped channels and labels, and how many voxels there were before."""
    name = label.name.removesuffix(".nii.gz")
    paths = sorted((label.parents[1] / "imagesTr").glob(f"{name}_[0-9][0-9][0-9][0-9].nii.gz"))
    data = np.stack([np.asarray(nib.load(path).dataobj, dtype=np.float32) for path in paths])
    seg = np.asarray(nib.load(label).dataobj, dtype=np.int8)
    data, cropped, _ = crop_to_nonzero(data, seg[None])
    return data, cropped[0], seg.size


def main(raw: Annotated[Path, typer.Argument(help="Data set in nnU-Net's raw format.")]) -> None:
    """Print a table, medians over the cases."""
    rows = [{"channel": n} | asdict(found) for case in clippings(raw) for n, found in enumerate(case)]
    grouped = pd.DataFrame(rows).groupby("channel")
    table = grouped.median()
    table.insert(0, "cases", grouped.size())
    table["clipped"] = table["clipped"].map("{:.0%}".format)
    typer.echo(markdown(table.reset_index().round(1).rename(columns=TITLES)))


if __name__ == "__main__":
    typer.run(main)
