"""One case's volumes as a script that the viewer loads; see `viewer`."""

import gzip
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.pair import bounding_box
from sgnet_nnunet.io.atomic import write_text
from sgnet_nnunet.report.volumes import CaseVolumes

COMPRESSION = 6


def write_case(
    folder: Path,
    name: str,
    volumes: CaseVolumes,
    scans: Sequence[NDArray[np.uint8]],
    *,
    masks: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Write the script with one case's volumes, `cases/NAME.js`.

    Args:
        folder: The viewer's folder.
        name: Name of the case.
        volumes: Its channels' names and its grid.
        scans: Its images, 0 to 255.
        masks: Its masks, by what they are called.
    """
    # Background around the head is half of a scan.
    filled = np.logical_or.reduce([*(scan > 0 for scan in scans), *masks.values()])
    box = bounding_box(filled) if scans and filled.any() else (slice(None),) * 3
    affine = volumes.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    content = {
        "name": name,
        "centre": _centre(list(masks.values()), volumes.affine),
        "images": [
            {"name": channel, "data": _encode(scan[box], affine)}
            for channel, scan in zip(volumes.channels, scans, strict=True)
        ],
        "masks": [
            {"name": title, "voxels": int(mask.sum()), "data": _encode(mask[box].astype(np.uint8), affine)}
            for title, mask in masks.items()
        ],
    }
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    write_text(folder / "cases" / f"{name}.js", f"showCase({json.dumps(content)});\n")


def _centre(masks: Sequence[NDArray[np.bool_]], affine: NDArray[np.float64]) -> list[float]:
    """Return a point of the first mask that has voxels, on the axial slice that holds most of it, in mm.

    It is the voxel nearest to the mean of those on the slice; without a mask, the middle of the grid.
    """
    for mask in masks:
        if mask.any():
            k = int(np.argmax(np.count_nonzero(mask, axis=(0, 1))))
            places = np.argwhere(mask[:, :, k])
            nearest = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
            return [float(mm) for mm in apply_affine(affine, [*nearest, k])]
    return [float(mm) for mm in apply_affine(affine, np.array(masks[0].shape) // 2)]


def _encode(data: NDArray[np.uint8], affine: NDArray[np.float64]) -> str:
    """Return a volume as `.nii.gz` in base64, the same bytes for the same volume."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    return b64encode(gzip.compress(image.to_bytes(), COMPRESSION, mtime=0)).decode("ascii")
