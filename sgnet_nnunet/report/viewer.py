"""Pages from templates, and the page with the 3D viewer."""

import json
import re
import shutil
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import as_file, files
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import needs_extra, printable
from sgnet_nnunet.evaluation.results import Results
from sgnet_nnunet.files import write_text
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.nifti import Grid, Volume, encode_volume
from sgnet_nnunet.report.figures import REFERENCE, REFERENCE_COLOUR, breakable, rgb

MOST_VOXELS = 2**26
"""Voxels of a volume in the viewer at most; a larger one is shown in blocks of voxels."""

ASSETS = ("niivue.umd.js", "LICENSE.txt")


_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def render(template: str, **values: object) -> str:
    """Return a page made from a file of `templates/`; every value is `printable` and escaped for HTML.

    The page allows the scripts of its template and no other: their checksums replace SCRIPTS in its
    content security policy.
    """
    with needs_extra("report"):
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("sgnet_nnunet.report"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    page = str(environment.get_template(template).render(**values))
    digests = (sha256(script.encode()).digest() for script in _INLINE_SCRIPT.findall(page))
    return page.replace("SCRIPTS", " ".join(f"'sha256-{b64encode(each).decode()}'" for each in digests), 1)


def write_viewer(folder: Path, *, title: str, cases: Sequence[str], masks: Sequence[tuple[str, str]]) -> None:
    """Write `index.html` and NiiVue to a folder, made if missing; `write_case` writes the cases.

    The masks are given by their titles and colours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        with as_file(files("sgnet_nnunet.report") / "viewer_assets" / name) as asset:
            shutil.copyfile(asset, folder / name)
    page = render(
        "viewer.html",
        dataset=title,
        cases=[{"name": name, "script": f"cases/{quote(name)}.js"} for name in cases],
        masks=[{"name": name, "colour": colour, "rgb": rgb(colour)} for name, colour in masks],
    )
    write_text(folder / "index.html", page)


def viewer_of_results(results: Results, folder: Path, *, colours: dict[str, str]) -> None:
    """Write the viewer of an evaluation: the reference and each model's masks of each case."""
    names = sorted({case.name for case in results.cases})
    masks = [(REFERENCE, REFERENCE_COLOUR), *((model.name, colours[model.name]) for model in results.models)]
    write_viewer(folder, title=results.dataset, cases=names, masks=masks)


def write_case(
    folder: Path,
    name: str,
    scans: Mapping[str, NDArray[np.uint8]],
    *,
    affine: NDArray[np.float64],
    masks: Mapping[str, NDArray[np.bool_]],
    notes: Sequence[str] = (),
) -> None:
    """Write the script with one case's volumes, `cases/NAME.js`, into the viewer's folder.

    Scans, 0 to 255, are by channel, masks by title; all have the shape (x, y, z) and the 4x4 affine from
    voxel index to world millimetres. The notes, such as why an image is left out, are shown below.
    """
    # Background around the head is half of a scan.
    filled = np.logical_or.reduce([*(scan > 0 for scan in scans.values()), *masks.values()])
    box = bounding_box(filled if scans and filled.any() else np.ones_like(filled))
    grid = Grid(filled.shape, affine)
    cropped = grid.crop(*np.array([(part.start, part.stop) for part in box]).T).affine
    step = ceil(np.cbrt(filled[box].size / MOST_VOXELS))
    if step > 1:
        notes = [*notes, f"shown in blocks of {step} x {step} x {step} voxels"]
    content = {
        "name": name,
        "notes": list(notes),
        "centre": _centre(list(masks.values()), grid),
        "images": [
            {"name": channel, "data": _encode(scan[box], cropped, step)} for channel, scan in scans.items()
        ],
        "masks": [
            {"name": title, "voxels": int(mask.sum()), "data": _encode(mask[box], cropped, step)}
            for title, mask in masks.items()
        ],
    }
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    write_text(folder / "cases" / f"{name}.js", f"showCase({json.dumps(content)});\n")


def _centre(masks: Sequence[NDArray[np.bool_]], grid: Grid) -> list[float]:
    """Return a point of the first mask that has voxels, on the axial slice that holds most of it, in mm.

    It is the voxel nearest to the mean of those on the slice; without a mask, the middle of the grid.
    """
    for mask in masks:
        if mask.any():
            k = int(np.argmax(np.count_nonzero(mask, axis=(0, 1))))
            places = np.argwhere(mask[:, :, k])
            nearest = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
            return grid.world(np.array([[*nearest, k]]))[0].tolist()
    return grid.world(np.array([grid.shape]) // 2)[0].tolist()


def _encode(data: NDArray[Any], affine: NDArray[np.float64], step: int) -> str:
    """Return a volume as `.nii.gz` in base64, each block of `step` voxels along every axis as its maximum."""
    block = np.diag([step, step, step, 1.0])
    block[:3, 3] = (step - 1) / 2
    for axis, length in enumerate(data.shape if step > 1 else ()):
        data = np.maximum.reduceat(data, np.arange(0, length, step), axis=axis)
    return b64encode(encode_volume(Volume(data.astype(np.uint8), affine @ block))).decode("ascii")
