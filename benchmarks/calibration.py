"""Phantoms next to real scans: field of view, intensities, noise and sharpness.

    sgnet phantom PHANTOMS -n 20 --seed 7
    python benchmarks/calibration.py PHANTOMS REAL... benchmarks/results

PHANTOMS and REAL are collections of stripped scans with masks, as `sgnet convert` reads them. For each row
the lowest, median and highest value over the patients are written, never a voxel. Intensities are in units
of the median of the brain farther than 5 mm from the tumour.
"""

from dataclasses import dataclass
from itertools import product
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

PERCENTILES = (1, 5, 25, 50, 75, 95, 99, 99.5, 99.9)
CLIP = (0.5, 99.5)  # percentiles of the brain, the SG-Net README's
SHARES = (0.05, 0.005)  # of the brain that tumours are given to compare clips: a glioma's, that of metastases
AWAY = 5.0  # distance from the tumour from which the brain is undisturbed, mm
INSIDE = 3.0  # depth under the tumour's outline from which half a thick slice holds only tumour, mm
SMALLEST = 200  # voxels so deep from which a tumour's intensities are measured
RIM, SURFACE, DEEP = (1.0, 4.0), 8.0, 20.0  # depths under the surface of the brain, mm
FLUID = 0.6  # intensity on FLAIR below which deep voxels are ventricle
FLAT, STEEP = 25, 98  # percentiles of the slope: tissue is flat below the one, an edge above the other
# Insensitive to edges; its response to white noise is six times the noise (Immerkaer 1996).
IMMERKAER = np.array(((1, -2, 1), (-2, 4, -2), (1, -2, 1)), dtype=np.float32)[..., None]
PARTS: dict[str, tuple[Part, Part]] = {"t1ce": ("t1ce_img", "core_seg"), "flair": ("flair_img", "whole_seg")}
NOTES = {
    "slice thickness": "the real scans were interpolated to 1 mm before they were published",
    "tumour / brain": "metastases, not gliomas",
    "tumour above the brain's P99.5": "follows from the size of the tumour: 0.5 % of a brain is 7 ml",
    "tumour, contrast lost": "as the row above the brain's P99.5",
    "tumour, ": "metastases enhance faintly or evenly; small ones fill a part of a thick slice",
}
"""Why phantoms leave the range of the real scans, by the beginning of the row's name; the first counts."""


@dataclass(frozen=True)
class Scan:
    """One channel of a patient on a grid of 1 mm along the world's axes; arrays of one shape (x, y, z)."""

    values: NDArray[np.float32]  # 0 outside the brain, 1 at the median of `healthy`
    brain: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    healthy: NDArray[np.bool_]  # brain away from the tumour
    depth: NDArray[np.float64]  # to the surface of the brain in mm, 0 outside

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
        values, depth = values / np.median(values[brain & far]) * brain, ndimage.distance_transform_edt(brain)
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
        figures = {"slice thickness, mm": max(image.grid.spacing)}
        figures["brain's box / field of view"] = brain.size / image.data.size
        figures["brain / field of view"] = brain.sum() / image.data.size
        figures |= intensities(scan) | surroundings(scan) | texture(scan)
        rows |= {f"{channel}: {name}": value for name, value in figures.items()}
    return rows


def intensities(scan: Scan) -> dict[str, float]:
    """Return the histogram of the brain away from the tumour, and the tumour's place in it."""
    healthy, tumour = scan.values[scan.healthy], scan.values[scan.tumour]
    rows = {f"P{p:g}": float(np.percentile(healthy, p)) for p in PERCENTILES}
    rows |= {"SD": float(healthy.std()), "tumour / brain, %": 100 * tumour.size / float(scan.brain.sum())}
    inner = scan.values[ndimage.distance_transform_edt(scan.tumour) > INSIDE]
    if inner.size < SMALLEST:
        return rows
    rows |= {f"tumour, P{p}": float(np.percentile(inner, p)) for p in (10, 50, 90)}
    low, high = np.percentile(scan.values[scan.brain], CLIP)
    rows["tumour, contrast: P90 above the median, SD"] = before = (rows["tumour, P90"] - 1) / rows["SD"]
    after = (np.clip(rows["tumour, P90"], low, high) - 1) / float(healthy.clip(low, high).std())
    rows["tumour, contrast lost to the clip, %"] = 100 * (1 - after / before)
    rows["tumour above the brain's P99.5, %"] = 100 * float((tumour > high).mean())
    sizes = ((f"tumour, the same if it took {share:.1%} of the brain, %", share) for share in SHARES)
    return rows | {name: 100 * clipped_share(healthy, tumour, share) for name, share in sizes}


def clipped_share(healthy: NDArray[np.float32], tumour: NDArray[np.float32], share: float) -> float:
    """Return the share of the tumour above P99.5 of a brain of which it takes `share`, whatever its size."""
    order = np.argsort(np.concatenate((healthy, tumour)))[::-1]
    weights = np.repeat(((1 - share) / healthy.size, share / tumour.size), (healthy.size, tumour.size))
    above = order[np.cumsum(weights[order]) <= 1 - CLIP[1] / 100]
    return float((above >= healthy.size).sum() / tumour.size)


def surroundings(scan: Scan) -> dict[str, float]:
    """Return how bright the surface, the rim, the deep brain and the tissue around the ventricles are."""
    fluid = scan.healthy & (scan.depth > DEEP) & (scan.values < FLUID)
    labels, _ = ndimage.label(ndimage.binary_opening(fluid))
    sizes = np.bincount(labels.ravel())[1:]
    ventricles = np.isin(labels, 1 + np.flatnonzero(sizes > sizes.max(initial=0) / 10))
    around = ndimage.distance_transform_edt(~ventricles)
    caps = scan.healthy & (around > RIM[0]) & (around <= RIM[1])
    zones = {
        ("vessels and dura, 0 to 8 mm deep", (99, 99.9)): scan.zone(0, SURFACE),
        ("rim, 1 to 4 mm deep", (50, 99)): scan.zone(*RIM),
        ("veins and plexus, from 20 mm", (99, 99.9)): scan.zone(DEEP),
        ("1 to 4 mm from the ventricles", (50, 95)): scan.values[caps],
    }
    at = ((f"{name}, P{p}", values, p) for (name, each), values in zones.items() for p in each)
    return {name: float(np.percentile(values, p)) if values.size else np.nan for name, values, p in at}


def texture(scan: Scan) -> dict[str, float]:
    """Return noise in flat tissue in the axial plane, and the width of edges there and along z."""
    inner, smooth = (
        scan.healthy & (scan.depth > RIM[1]),
        ndimage.gaussian_gradient_magnitude(scan.values, 1.5),
    )
    response = ndimage.convolve(scan.values, IMMERKAER)[inner & (smooth < np.percentile(smooth[inner], FLAT))]
    x, y, z = (edge_widths(scan.values, inner, axis) for axis in range(3))
    rows = {"noise in flat tissue": float(1.4826 * np.median(np.abs(response)) / 6)}
    edges = {"in the axial plane": np.concatenate((x, y)), "along z": z}
    return rows | {f"edge width {where}, mm": float(np.median(widths)) for where, widths in edges.items()}


def edge_widths(values: NDArray[np.float32], inner: NDArray[np.bool_], axis: int) -> NDArray[np.float32]:
    """Return the range of intensities within 3 mm over the slope, in mm, where the latter is steepest."""
    slope = np.abs(np.gradient(values, axis=axis))
    steep = inner & (slope >= np.percentile(slope[inner], STEEP))
    span = ndimage.maximum_filter1d(values, 7, axis=axis) - ndimage.minimum_filter1d(values, 7, axis=axis)
    return np.asarray(span[steep] / slope[steep])


def compare(real: pd.DataFrame, phantoms: pd.DataFrame) -> pd.DataFrame:
    """Return lowest, median and highest of each row, and whether phantoms stay inside the real range."""
    sides = product((("real", real), ("phantom", phantoms)), ("min", "median", "max"))
    frame = pd.DataFrame({f"{name} {which}": rows.agg(which) for (name, rows), which in sides}).round(3)
    inside = (frame["phantom min"] >= frame["real min"]) & (frame["phantom max"] <= frame["real max"])
    notes = [next((NOTES[start] for start in NOTES if f": {start}" in row), "") for row in frame.index]
    return frame.assign(inside=np.where(inside, "yes", "no"), note=np.where(inside, "", notes))


def main(
    phantoms: Annotated[Path, typer.Argument(help="Collection of phantoms.")],
    real: Annotated[list[Path], typer.Argument(help="Collections of real patients.")],
    results: Annotated[Path, typer.Argument(help="Folder for calibration.json and calibration.md.")],
) -> None:
    """Write and print the table."""
    groups = ([visit for root in roots for visit in scan_collection(root)] for roots in (real, [phantoms]))
    found = [pd.DataFrame(map(measure, visits)) for visits in groups]
    frame = compare(*found)
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "calibration.json", frame.to_json(orient="index", indent=1) + "\n")
    table = markdown(frame.rename_axis("row").reset_index())
    title = "# Phantoms next to real scans\n\n{} real patients, {} phantoms.\n\n".format(*map(len, found))
    write_text(results / "calibration.md", f"{title}{table}\n")
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
