"""What clipping at the 99.5th percentile takes from the tumours of an nnU-Net data set.

    python benchmarks/clipping.py nnUNet_raw/Dataset501_BrainMetsLung

Each image is cropped to its non-zero box first, as nnU-Net does before it normalises.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.pair import bounding_box
from sgnet_nnunet.planning.normalization import PercentileNormalization, PercentileTo01Normalization

BRIGHT = 90
"""Percentile of a tumour's voxels that stands for what enhances."""


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """What the clip does to a channel of a case.

    Attributes:
        clipped: Share of the tumour's voxels above the upper percentile, 0 to 1.
        unclipped_contrast: How far the tumour's bright voxels lie above the median of the other brain,
            in standard deviations of the latter, clipped nowhere.
        clipped_contrast: The same after the clip.
    """

    clipped: float
    unclipped_contrast: float
    clipped_contrast: float


def clipping_of(image: NDArray[np.floating], tumour: NDArray[np.bool_]) -> Clipping:
    """Measure one channel.

    Args:
        image: A scan whose background is 0, cropped to the rest.
        tumour: Of the same shape, not empty.
    """
    brain = (image > 0) & ~tumour
    scaled, clipped = (
        kind(use_mask_for_norm=False, intensityproperties={}).run(image)
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


def clippings(raw: Path) -> Iterator[tuple[int, Clipping]]:
    """Yield channel and figures of every training image with a tumour."""
    for label in sorted((raw / "labelsTr").glob("*.nii.gz")):
        tumour = np.asarray(nib.load(label).dataobj) > 0
        if not tumour.any():
            continue
        name = label.name.removesuffix(".nii.gz")
        for path in sorted((raw / "imagesTr").glob(f"{name}_[0-9][0-9][0-9][0-9].nii.gz")):
            image = np.asarray(nib.load(path).dataobj, dtype=np.float32)
            box = bounding_box(image != 0)
            yield int(path.name[-11:-7]), clipping_of(image[box], tumour[box])


def main(raw: Annotated[Path, typer.Argument(help="Data set in nnU-Net's raw format.")]) -> None:
    """Print a table, medians over the cases."""
    channels: dict[int, list[Clipping]] = {}
    for channel, figures in clippings(raw):
        channels.setdefault(channel, []).append(figures)
    typer.echo(
        "| channel | cases | tumour voxels clipped | bright tumour above brain, SD | the same, clipped |"
    )
    typer.echo("|---|---|---|---|---|")
    for channel, found in sorted(channels.items()):
        clipped, before, after = (
            statistics.median(getattr(figures, name) for figures in found)
            for name in ("clipped", "unclipped_contrast", "clipped_contrast")
        )
        typer.echo(f"| {channel} | {len(found)} | {clipped:.0%} | {before:.1f} | {after:.1f} |")


if __name__ == "__main__":
    typer.run(main)
