"""Phantoms next to real scans: field of view, intensities, noise and sharpness.

    sgnet phantom PHANTOMS -n 12 --seed 7
    python benchmarks/calibration.py PHANTOMS REAL... benchmarks/results

PHANTOMS and REAL are collections of stripped scans with masks, as `sgnet convert` reads them. For each row
the lowest, median and highest value over the patients are written, never a voxel. Intensities are in units of
the median of the brain farther than 5 mm from the tumour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from scipy import ndimage
from timing import markdown

from sgnet_nnunet.dataset.collection import Accession, Part, scan_collection
from sgnet_nnunet.dataset.resampling import resample_image, resample_mask
from sgnet_nnunet.files import write_text
from sgnet_nnunet.nifti import Grid, Volume, read_image, read_mask

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 99.5, 99.9)
LIMIT = 99.5
"""Upper percentile of the SG-Net README's clip."""

SHARES = (0.05, 0.005)
"""Of the brain: sizes of a glioma and of metastases, for a clip that would otherwise depend on the size."""

AWAY = 5.0
"""Distance in mm from the tumour from which the brain counts as undisturbed."""

INSIDE = 3.0
"""Depth in mm under the tumour's outline from which a voxel, or half a thick slice, holds only tumour."""

SMALLEST = 200
"""Fewest such voxels, of 1 mm3, from which a tumour's intensities are measured."""

RIM, SURFACE, DEEP = (1.0, 4.0), (0.0, 8.0), 20.0
"""Depths in mm: the rim of the brain, dura and cortical vessels, deep veins and ventricles."""

FLUID = 0.6
"""Intensity on FLAIR below which deep voxels are ventricle."""

FLAT = 25
"""Percentile of the smoothed gradient below which tissue is flat."""

STEEP = 98
"""Percentile of the slope from which there is an edge."""

IMMERKAER = np.array(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), dtype=np.float32)[..., None]
"""Insensitive to edges; its response to white noise is six times the noise (Immerkaer 1996)."""

Channel = Literal["t1ce", "flair"]
PARTS: Mapping[Channel, tuple[Part, Part]] = {
    "t1ce": ("t1ce_img", "core_seg"),
    "flair": ("flair_img", "whole_seg"),
}
SMALL = "metastases, not gliomas; small ones fill a part of a thick slice"
NOTES = {
    "slice thickness, mm": "the real scans were interpolated to 1 mm before they were published",
    "tumour / brain, %": "metastases, not gliomas",
    "tumour above the brain's P99.5, %": "follows from the size of the tumour: 0.5 % of a brain is 7 ml",
    "tumour, P10": SMALL,
    "tumour, median": SMALL,
    "tumour, P90": SMALL,
    "tumour, P90 above the median, SD": SMALL,
    "the same if it took 5.0% of the brain": SMALL,
    "the same if it took 0.5% of the brain": SMALL,
}
"""Why phantoms are not inside the range of the real scans, where they are not."""


@dataclass(frozen=True)
class Scan:
    """One channel of a patient on a grid of 1 mm along the world's axes; arrays of one shape (x, y, z).

    Attributes:
        values: Intensities, 0 outside the brain and 1 at the median of `healthy`.
        healthy: Brain away from the tumour.
        depth: Distance to the surface of the brain in mm, 0 outside.
    """

    values: NDArray[np.float32]
    brain: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    healthy: NDArray[np.bool_]
    depth: NDArray[np.float64]

    def zone(self, least: float, most: float = np.inf) -> NDArray[np.float32]:
        """Return the intensities of the healthy brain between two depths."""
        return self.values[self.healthy & (self.depth > least) & (self.depth <= most)]


def read_scans(accession: Accession) -> dict[Channel, Scan]:
    """Read and resample both channels of a visit; the real ones were resampled when they were registered."""
    images = {channel: read_image(accession.path(image)) for channel, (image, _) in PARTS.items()}
    low, high = np.array([_brain_of(image)[1].bounds() for image in images.values()]).mean(axis=0)
    frame = np.eye(4)
    frame[:3, 3] = np.floor(low) - 1
    grid = Grid(tuple(int(length) for length in np.ceil(high - low) + 3), frame)
    tumours = {
        channel: resample_mask(read_mask(accession.path(mask)).volume, grid)
        for channel, (_, mask) in PARTS.items()
    }
    far = ndimage.distance_transform_edt(~(tumours["t1ce"] | tumours["flair"])) > AWAY
    scans: dict[Channel, Scan] = {}
    for channel, image in images.items():
        values = resample_image(image, grid).astype(np.float32)
        brain = ndimage.binary_fill_holes(values != 0)
        # Where thousandths of the brain have the lowest value, z-scores were cut at the scanner's zero.
        lowest, floor = np.percentile(values[values != 0], (0, 0.1))
        values -= lowest if lowest == floor else 0
        values = np.where(brain, values / np.median(values[brain & far]), 0)
        depth = ndimage.distance_transform_edt(brain)
        scans[channel] = Scan(values, brain, tumours[channel] & brain, brain & far, depth)
    return scans


def _brain_of(image: Volume) -> tuple[NDArray[np.bool_], Grid]:
    """Return the brain without holes, and its grid, cropped to it."""
    (box,) = ndimage.find_objects((image.data != 0).astype(np.uint8))
    grid = image.grid.crop(np.array([s.start for s in box]), np.array([s.stop for s in box]))
    return ndimage.binary_fill_holes(image.data[box] != 0), grid


def measure(accession: Accession) -> dict[str, float]:
    """Return every figure of a patient, by the name of its row."""
    rows: dict[str, float] = {}
    for channel, scan in read_scans(accession).items():
        image = read_image(accession.path(PARTS[channel][0]))
        brain, _ = _brain_of(image)
        figures = {
            "brain's box / field of view": brain.size / image.data.size,
            "brain / field of view": brain.sum() / image.data.size,
            "slice thickness, mm": max(image.grid.spacing),
        }
        figures |= intensities(scan) | surroundings(scan) | texture(scan)
        rows |= {f"{channel}: {name}": float(value) for name, value in figures.items()}
    return rows


def intensities(scan: Scan) -> dict[str, float]:
    """Return the histogram of the brain away from the tumour, and the tumour's place in it."""
    healthy, tumour = scan.values[scan.healthy], scan.values[scan.tumour]
    rows = {f"P{p:g}": np.percentile(healthy, p) for p in PERCENTILES}
    rows |= {"SD": healthy.std(), "tumour / brain, %": 100 * tumour.size / scan.brain.sum()}
    inner = scan.values[ndimage.distance_transform_edt(scan.tumour) > INSIDE]
    if inner.size < SMALLEST:
        return rows
    low, middle, high = np.percentile(inner, (10, 50, 90))
    limit = np.percentile(scan.values[scan.brain], LIMIT)
    rows |= {"tumour, P10": low, "tumour, median": middle, "tumour, P90": high}
    rows |= {
        "tumour, P90 above the median, SD": (high - 1) / healthy.std(),
        "tumour above the brain's P99.5, %": 100 * (tumour > limit).mean(),
    }
    for share in SHARES:
        rows[f"the same if it took {share:.1%} of the brain"] = 100 * clipped_share(healthy, tumour, share)
    return rows


def clipped_share(healthy: NDArray[np.float32], tumour: NDArray[np.float32], share: float) -> float:
    """Return the share of the tumour above P99.5 of a brain of which it takes `share`, whatever its size."""
    values = np.concatenate((healthy, tumour))
    order = np.argsort(values)[::-1]
    weight = np.repeat(((1 - share) / healthy.size, share / tumour.size), (healthy.size, tumour.size))[order]
    above = order[np.cumsum(weight) <= 1 - LIMIT / 100]
    return float((above >= healthy.size).sum() / tumour.size)


def surroundings(scan: Scan) -> dict[str, float]:
    """Return how bright the surface, the rim, the deep brain and the tissue around the ventricles are."""
    labels, _ = ndimage.label(
        ndimage.binary_opening(scan.healthy & (scan.depth > DEEP) & (scan.values < FLUID))
    )
    sizes = np.bincount(labels.ravel())[1:]
    ventricles = np.isin(labels, 1 + np.flatnonzero(sizes > sizes.max(initial=0) / 10))
    around = ndimage.distance_transform_edt(~ventricles)
    caps = scan.values[scan.healthy & (around > RIM[0]) & (around <= RIM[1])]
    return {
        "vessels and dura, 0 to 8 mm deep, P99": np.percentile(scan.zone(*SURFACE), 99),
        "vessels and dura, 0 to 8 mm deep, P99.9": np.percentile(scan.zone(*SURFACE), 99.9),
        "rim, 1 to 4 mm deep, median": np.median(scan.zone(*RIM)),
        "rim, 1 to 4 mm deep, P99": np.percentile(scan.zone(*RIM), 99),
        "veins and plexus, from 20 mm, P99": np.percentile(scan.zone(DEEP), 99),
        "veins and plexus, from 20 mm, P99.9": np.percentile(scan.zone(DEEP), 99.9),
        "1 to 4 mm from the ventricles, median": np.median(caps) if caps.size else np.nan,
        "1 to 4 mm from the ventricles, P95": np.percentile(caps, 95) if caps.size else np.nan,
    }


def texture(scan: Scan) -> dict[str, float]:
    """Return noise in flat tissue in the axial plane, and the width of edges there and along z."""
    inner = scan.healthy & (scan.depth > RIM[1])
    smooth = ndimage.gaussian_gradient_magnitude(scan.values, 1.5)
    flat = inner & (smooth < np.percentile(smooth[inner], FLAT))
    response = ndimage.convolve(scan.values, IMMERKAER)[flat]
    x, y, z = (edge_widths(scan.values, inner, axis) for axis in range(3))
    return {
        "noise in flat tissue": 1.4826 * np.median(np.abs(response)) / 6,
        "edge width in the axial plane, mm": np.median(np.concatenate((x, y))),
        "edge width along z, mm": np.median(z),
    }


def edge_widths(values: NDArray[np.float32], inner: NDArray[np.bool_], axis: int) -> NDArray[np.float32]:
    """Return the range of intensities within 3 mm over the slope, in mm, where the latter is steepest."""
    slope = np.abs(np.gradient(values, axis=axis))[inner]
    high, low = (
        extremum(values, size=7, axis=axis)[inner]
        for extremum in (ndimage.maximum_filter1d, ndimage.minimum_filter1d)
    )
    steep = slope >= np.percentile(slope, STEEP)
    return (high - low)[steep] / slope[steep]


def compare(real: pd.DataFrame, phantoms: pd.DataFrame) -> pd.DataFrame:
    """Return lowest, median and highest of each row, and whether phantoms stay inside the real range."""
    spans = {
        f"{name} {which}": frame.agg(which)
        for name, frame in (("real", real), ("phantom", phantoms))
        for which in ("min", "median", "max")
    }
    frame = pd.DataFrame(spans).round(3)
    inside = (frame["phantom min"] >= frame["real min"]) & (frame["phantom max"] <= frame["real max"])
    frame["inside"] = np.where(inside, "yes", "no")
    notes = pd.Series([NOTES.get(row.partition(": ")[2], "") for row in frame.index], index=frame.index)
    frame["note"] = notes.where(~inside, "")
    return frame


def main(
    phantoms: Annotated[Path, typer.Argument(help="Collection of phantoms.")],
    real: Annotated[list[Path], typer.Argument(help="Collections of real patients.")],
    results: Annotated[Path, typer.Argument(help="Folder for calibration.json and calibration.md.")],
) -> None:
    """Write and print the table."""
    of_real, of_phantoms = (pd.DataFrame(_rows(each)) for each in (real, [phantoms]))
    frame = compare(of_real, of_phantoms)
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "calibration.json", frame.to_json(orient="index", indent=1) + "\n")
    sizes = f"{len(of_real)} real patients, {len(of_phantoms)} phantoms."
    shown = markdown(frame.rename_axis("row").reset_index())
    write_text(results / "calibration.md", f"# Phantoms next to real scans\n\n{sizes}\n\n{shown}\n")
    typer.echo(shown)


def _rows(roots: Iterable[Path]) -> list[dict[str, float]]:
    return [measure(accession) for root in roots for accession in scan_collection(root)]


if __name__ == "__main__":
    typer.run(main)
