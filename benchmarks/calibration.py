"""Phantoms next to real scans: field of view, intensities, noise and sharpness.

    sgnet phantom PHANTOMS -n 12 --seed 7
    python benchmarks/calibration.py PHANTOMS REAL... benchmarks/results

PHANTOMS and REAL are collections of stripped scans with masks, as `sgnet convert` reads them. For each row
the lowest, median and highest value over the patients are written, never a voxel. Intensities are in units of
the median of the brain farther than 5 mm from the tumour.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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

Rows = dict[str, float]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 99.5, 99.9)
LIMIT = 99.5  # upper percentile of the SG-Net README's clip
SHARES = (
    0.05,
    0.005,
)  # of the brain that tumours are given to compare clips: a glioma's, and that of metastases
AWAY = 5.0  # distance from the tumour from which the brain is undisturbed, mm
INSIDE = 3.0  # depth under the tumour's outline from which half a thick slice holds only tumour, mm
SMALLEST = 200  # voxels so deep from which a tumour's intensities are measured
RIM, SURFACE, DEEP = (1.0, 4.0), 8.0, 20.0  # depths under the surface of the brain, mm
FLUID = 0.6  # intensity on FLAIR below which deep voxels are ventricle
FLAT, STEEP = (
    25,
    98,
)  # percentiles of the slope: below the one tissue is flat, from the other on there is an edge
IMMERKAER = np.array(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), dtype=np.float32)[..., None]
"""Insensitive to edges; its response to white noise is six times the noise (Immerkaer 1996)."""

PARTS: dict[str, tuple[Part, Part]] = {"t1ce": ("t1ce_img", "core_seg"), "flair": ("flair_img", "whole_seg")}
NOTES = {
    "slice thickness": "the real scans were interpolated to 1 mm before they were published",
    "tumour / brain": "metastases, not gliomas",
    "tumour above the brain's P99.5": "follows from the size of the tumour: 0.5 % of a brain is 7 ml",
    "tumour": "metastases enhance faintly or evenly; small ones fill a part of a thick slice",
    "the same": "metastases enhance faintly or evenly; small ones fill a part of a thick slice",
}
"""Why phantoms leave the range of the real scans, by the beginning of the row's name; the first counts."""


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


def read_scans(accession: Accession) -> dict[str, Scan]:
    """Read and resample both channels of a visit; the real ones were resampled when they were registered."""
    images = {channel: read_image(accession.path(image)) for channel, (image, _) in PARTS.items()}
    low, high = np.array([_brain_of(image)[1].bounds() for image in images.values()]).mean(axis=0)
    frame = np.eye(4)
    frame[:3, 3] = np.floor(low) - 1
    grid = Grid(tuple(int(length) for length in np.ceil(high - low) + 3), frame)
    masks = {channel: read_mask(accession.path(mask)).volume for channel, (_, mask) in PARTS.items()}
    tumours = {channel: resample_mask(mask, grid) for channel, mask in masks.items()}
    far = ndimage.distance_transform_edt(~(tumours["t1ce"] | tumours["flair"])) > AWAY
    scans = {}
    for channel, image in images.items():
        values = resample_image(image, grid).astype(np.float32)
        brain = ndimage.binary_fill_holes(values != 0)
        # Where a thousandth of the brain has the lowest value, z-scores were cut at the scanner's zero.
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


def measure(accession: Accession) -> Rows:
    """Return every figure of a patient, by the name of its row."""
    rows: Rows = {}
    for channel, scan in read_scans(accession).items():
        image = read_image(accession.path(PARTS[channel][0]))
        brain, _ = _brain_of(image)
        figures = {
            "brain's box / field of view": brain.size / image.data.size,
            "brain / field of view": brain.sum() / image.data.size,
            "slice thickness, mm": max(image.grid.spacing),
        }
        figures |= intensities(scan) | surroundings(scan) | texture(scan)
        rows |= {f"{channel}: {name}": value for name, value in figures.items()}
    return rows


def intensities(scan: Scan) -> Rows:
    """Return the histogram of the brain away from the tumour, and the tumour's place in it."""
    healthy, tumour = scan.values[scan.healthy], scan.values[scan.tumour]
    rows = {f"P{p:g}": float(np.percentile(healthy, p)) for p in PERCENTILES}
    rows |= {"SD": float(healthy.std()), "tumour / brain, %": 100 * tumour.size / float(scan.brain.sum())}
    inner = scan.values[ndimage.distance_transform_edt(scan.tumour) > INSIDE]
    if inner.size < SMALLEST:
        return rows
    rows |= {f"tumour, P{p}": float(np.percentile(inner, p)) for p in (10, 50, 90)}
    rows["tumour, P90 above the median, SD"] = (rows["tumour, P90"] - 1) / rows["SD"]
    above = tumour > np.percentile(scan.values[scan.brain], LIMIT)
    rows["tumour above the brain's P99.5, %"] = 100 * float(above.mean())
    for share in SHARES:
        rows[f"the same if it took {share:.1%} of the brain"] = 100 * clipped_share(healthy, tumour, share)
    return rows


def clipped_share(healthy: NDArray[np.float32], tumour: NDArray[np.float32], share: float) -> float:
    """Return the share of the tumour above P99.5 of a brain of which it takes `share`, whatever its size."""
    order = np.argsort(np.concatenate((healthy, tumour)))[::-1]
    weights = np.repeat(((1 - share) / healthy.size, share / tumour.size), (healthy.size, tumour.size))
    above = order[np.cumsum(weights[order]) <= 1 - LIMIT / 100]
    return float((above >= healthy.size).sum() / tumour.size)


def surroundings(scan: Scan) -> Rows:
    """Return how bright the surface, the rim, the deep brain and the tissue around the ventricles are."""
    labels, _ = ndimage.label(
        ndimage.binary_opening(scan.healthy & (scan.depth > DEEP) & (scan.values < FLUID))
    )
    sizes = np.bincount(labels.ravel())[1:]
    around = ndimage.distance_transform_edt(
        ~np.isin(labels, 1 + np.flatnonzero(sizes > sizes.max(initial=0) / 10))
    )
    zones = {
        ("vessels and dura, 0 to 8 mm deep", (99, 99.9)): scan.zone(0, SURFACE),
        ("rim, 1 to 4 mm deep", (50, 99)): scan.zone(*RIM),
        ("veins and plexus, from 20 mm", (99, 99.9)): scan.zone(DEEP),
        ("1 to 4 mm from the ventricles", (50, 95)): scan.values[
            scan.healthy & (around > RIM[0]) & (around <= RIM[1])
        ],
    }
    return {
        f"{name}, P{p}": float(np.percentile(values, p)) if values.size else np.nan
        for (name, percentiles), values in zones.items()
        for p in percentiles
    }


def texture(scan: Scan) -> Rows:
    """Return noise in flat tissue in the axial plane, and the width of edges there and along z."""
    inner = scan.healthy & (scan.depth > RIM[1])
    smooth = ndimage.gaussian_gradient_magnitude(scan.values, 1.5)
    response = ndimage.convolve(scan.values, IMMERKAER)[inner & (smooth < np.percentile(smooth[inner], FLAT))]
    x, y, z = (edge_widths(scan.values, inner, axis) for axis in range(3))
    return {
        "noise in flat tissue": float(1.4826 * np.median(np.abs(response)) / 6),
        "edge width in the axial plane, mm": float(np.median(np.concatenate((x, y)))),
        "edge width along z, mm": float(np.median(z)),
    }


def edge_widths(values: NDArray[np.float32], inner: NDArray[np.bool_], axis: int) -> NDArray[np.float32]:
    """Return the range of intensities within 3 mm over the slope, in mm, where the latter is steepest."""
    slope = np.abs(np.gradient(values, axis=axis))[inner]
    high, low = (
        extremum(values, size=7, axis=axis)[inner]
        for extremum in (ndimage.maximum_filter1d, ndimage.minimum_filter1d)
    )
    steep = slope >= np.percentile(slope, STEEP)
    return np.asarray((high - low)[steep] / slope[steep])


def compare(real: pd.DataFrame, phantoms: pd.DataFrame) -> pd.DataFrame:
    """Return lowest, median and highest of each row, and whether phantoms stay inside the real range."""
    spans = {
        f"{name} {which}": frame.agg(which)
        for name, frame in (("real", real), ("phantom", phantoms))
        for which in ("min", "median", "max")
    }
    frame = pd.DataFrame(spans).round(3)
    inside = (frame["phantom min"] >= frame["real min"]) & (frame["phantom max"] <= frame["real max"])
    names = (row.partition(": ")[2] for row in frame.index)
    notes = [next((note for start, note in NOTES.items() if name.startswith(start)), "") for name in names]
    return frame.assign(inside=np.where(inside, "yes", "no"), note=np.where(inside, "", notes))


def main(
    phantoms: Annotated[Path, typer.Argument(help="Collection of phantoms.")],
    real: Annotated[list[Path], typer.Argument(help="Collections of real patients.")],
    results: Annotated[Path, typer.Argument(help="Folder for calibration.json and calibration.md.")],
) -> None:
    """Write and print the table."""
    of_real, of_phantoms = (
        pd.DataFrame([measure(accession) for root in roots for accession in scan_collection(root)])
        for roots in (real, [phantoms])
    )
    frame = compare(of_real, of_phantoms)
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "calibration.json", frame.to_json(orient="index", indent=1) + "\n")
    sizes = f"{len(of_real)} real patients, {len(of_phantoms)} phantoms."
    shown = markdown(frame.rename_axis("row").reset_index())
    write_text(results / "calibration.md", f"# Phantoms next to real scans\n\n{sizes}\n\n{shown}\n")
    typer.echo(shown)


if __name__ == "__main__":
    typer.run(main)
