"""What clipping at the 99.5 percentile of the brain changes, in an nnU-Net data set.

    python benchmarks/clipping.py nnUNet_raw/Dataset501_BrainMetsLung

Percentiles and contrast are those within the brain: the voxels that are not 0, without holes.
"""

import json
from pathlib import Path
from typing import Annotated

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from numpy.typing import NDArray
from timing import markdown

from sgnet_nnunet.planning.normalization import PercentileNormalization, PercentileTo01Normalization

BRIGHT = 90
"""Percentile of a tumour's voxels that stands for its brighter part."""

FIGURES, BOX = ("clipped", "before", "after"), "brain's box / field of view"


def clipping_of(image: NDArray[np.floating], seg: NDArray[np.number]) -> tuple[float, float, float]:
    """Return the share of a tumour that is clipped, 0 to 1, and its contrast before and after.

    The contrast is the distance of the tumour's bright voxels from the median of the other brain, in standard
    deviations of the latter.

    Args:
        image: A channel whose background is 0, shape (z, y, x).
        seg: Labels of the same shape, tumour above 0 and not empty, negative outside the brain.
    """
    tumour, brain = seg > 0, (seg == 0) & (image != 0)
    unclipped, clipped = (
        kind(use_mask_for_norm=True, intensityproperties={}).run(image, seg)
        for kind in (PercentileNormalization, PercentileTo01Normalization)
    )
    before, after = (
        (np.percentile(scaled[tumour], BRIGHT) - np.median(scaled[brain])) / scaled[brain].std()
        for scaled in (unclipped, clipped)
    )
    return float((unclipped[tumour] > 1).mean()), float(before), float(after)


def measure(raw: Path) -> pd.DataFrame:
    """Return the figures of every training case with a tumour, a row each, then their range."""
    channels = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["channel_names"].values()
    rows = {}
    for label in sorted((raw / "labelsTr").glob("*.nii.gz")):
        name = label.name.removesuffix(".nii.gz")
        files = sorted((raw / "imagesTr").glob(f"{name}_????.nii.gz"))
        data = np.stack([np.asarray(nib.load(path).dataobj, dtype=np.float32) for path in files])
        whole = np.asarray(nib.load(label).dataobj, dtype=np.int8)
        data, seg, _ = crop_to_nonzero(data, whole[None])
        if not (seg > 0).any():
            continue
        rows[name] = {
            (channel, figure): value
            for channel, image in zip(channels, data, strict=True)
            for figure, value in zip(FIGURES, clipping_of(image, seg[0]), strict=True)
        } | {(BOX, ""): seg.size / whole.size}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.loc["lowest"], frame.loc["highest"] = frame.min(), frame.max()
    return frame


def main(raw: Annotated[Path, typer.Argument(help="Data set in nnU-Net's raw format.")]) -> None:
    """Print a table with a row per case."""
    frame = measure(raw)
    table = pd.DataFrame({"case": frame.index}, index=frame.index)
    for channel in dict.fromkeys(frame.columns.get_level_values(0).drop(BOX)):
        clipped, before, after = (frame[channel, figure].map for figure in FIGURES)
        table[f"{channel} clipped"] = clipped("{:.0%}".format)
        table[f"{channel} contrast"] = before("{:.2f} -> ".format) + after("{:.2f}".format)
    table[BOX] = frame[BOX, ""].map("{:.2f}".format)
    typer.echo(markdown(table))


if __name__ == "__main__":
    typer.run(main)
