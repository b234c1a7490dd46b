"""Time `sgnet compare` on a made-up cross-validation of many cases and models.

    OMP_NUM_THREADS=1 python benchmarks/comparison_speed.py --cases 92 --models 6 -np 2

The tree is nnU-Net's: 240 x 240 x 155 voxels at 1 mm, one to ten lesions a case, every model's masks
off by some mm with lesions missed and others made up. Networks are not timed, for there are none.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (240, 240, 155)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
BRAIN_MM = (65.0, 82.0, 60.0)
"""Half axes of the head's brain, an ellipsoid in the middle."""

DATASET, FOLDS, SCANS = "Dataset501_Speed", 5, 4
"""Few scans are drawn and linked to all cases: drawing and compressing one takes seconds."""

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Spent:
    """What a run of a command took: wall seconds, processor seconds, largest process in MB."""

    wall: float
    processor: float
    megabytes: float


def main(
    cases: Annotated[int, typer.Option(min=1, help="Cases of the cross-validation.")] = 92,
    models: Annotated[int, typer.Option(min=1, help="Models that are compared.")] = 6,
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes.")] = 2,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the tree, kept and used again; else a temporary one.")
    ] = None,
    viewer: Annotated[bool, typer.Option("--viewer", help="With the 3D viewer.")] = False,
) -> None:
    """Print the time of the measuring alone and of the whole command, and the report's size."""
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        names = [f"Model{number}" for number in range(models)]
        make_tree(root, cases=cases, models=names)
        folds = [str(fold) for fold in range(min(FOLDS, cases))]
        output = root / "report"
        options = ["-d", "501", "--models", *names, "-f", *folds, "-np", str(workers)]
        extra = ["--viewer"] if viewer else []
        measuring = _run(root, _MEASURE, json.dumps([names, folds, workers]))
        whole = _run(root, _COMMAND, "compare", *options, "--time-cases", "0", "-o", str(output), *extra)
        size = (output / "report.html").stat().st_size / 1e6
    typer.echo(
        f"{cases} cases x {models} models of {' x '.join(map(str, SHAPE))} voxels, {workers} processes\n"
    )
    typer.echo("| what | wall, s | processor, s | largest process, MB |\n|---|---|---|---|")
    for what, spent in (("measuring", measuring), ("sgnet compare, all of it", whole)):
        typer.echo(f"| {what} | {spent.wall:.0f} | {spent.processor:.0f} | {spent.megabytes:.0f} |")
    typer.echo(f"\nreport.html: {size:.1f} MB")


_COMMAND = "from sgnet_nnunet.cli.main import main; main()"
_MEASURE = """
import json, sys
from sgnet_nnunet.comparison.run import measure_results
from sgnet_nnunet.results.model_folder import results_of_models
if __name__ == "__main__":
    models, folds, workers = json.loads(sys.argv[1])
    measure_results(results_of_models("501", models, folds), workers=workers)
"""


def _run(root: Path, program: str, *arguments: str) -> Spent:
    """Run a Python program in a process of its own, so that its imports and workers count too."""
    script = root / "program.py"
    script.write_text(program if "__main__" in program else f"if __name__ == '__main__':\n    {program}\n")
    paths = {variable: str(root / variable) for variable in VARIABLES}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = perf_counter()
    subprocess.run([sys.executable, str(script), *arguments], env=os.environ | paths, check=True)  # noqa: S603
    wall = perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, processor, after.ru_maxrss / 1024)


def make_tree(root: Path, *, cases: int, models: list[str]) -> None:
    """Write the tree, or as much of it as is not there yet."""
    raw, preprocessed, results = (root / variable / DATASET for variable in VARIABLES)
    names = [f"YG_P{case // 2:03d}_YG_A{case:03d}" for case in range(cases)]
    splits = [{"train": [], "val": names[fold::FOLDS]} for fold in range(min(FOLDS, cases))]
    labels = json.dumps({"labels": {"background": 0, "whole_tumor": 1}})
    references = preprocessed / "gt_segmentations"
    for folder in (raw / "imagesTr", references, *(results / _folder(model) for model in models)):
        folder.mkdir(parents=True, exist_ok=True)
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    for model in models:
        (results / _folder(model) / "dataset.json").write_text(labels)
    brain = _ellipsoid()
    _write_images(raw / "imagesTr", names, brain)
    for case, name in enumerate(names):
        targets = [
            results / _folder(model) / f"fold_{case % FOLDS}/validation/{name}.nii.gz" for model in models
        ]
        if all(path.is_file() for path in (references / f"{name}.nii.gz", *targets)):
            continue
        rng = np.random.default_rng(case)
        lesions = _lesions(rng, brain)
        _write(references / f"{name}.nii.gz", _draw(lesions))
        for path in targets:
            _write(path, _draw(_perturb(rng, lesions, brain)))


def _folder(model: str) -> str:
    return f"{model}__nnUNetPlans__3d_fullres"


def _ellipsoid() -> NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(length) for length in SHAPE)]
    squares = [
        ((axis - length / 2) / half) ** 2 for axis, length, half in zip(axes, SHAPE, BRAIN_MM, strict=True)
    ]
    return np.asarray(sum(squares) < 1)


def _lesions(rng: np.random.Generator, brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return centres and radii of lesions in mm, shape (n, 4): many small ones, few large."""
    number = int(rng.integers(1, 11))
    centres = np.argwhere(brain)[rng.integers(0, np.count_nonzero(brain), number)]
    return np.column_stack([centres, np.clip(rng.lognormal(1.6, 0.6, number), 1.2, 22)])


def _perturb(
    rng: np.random.Generator, lesions: NDArray[np.float64], brain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the lesions moved and resized, some small ones missed, and false ones beside them."""
    found = lesions[rng.random(len(lesions)) < np.clip(lesions[:, 3] / 5, 0.3, 0.97)]
    moved = found + np.column_stack([rng.normal(0, 1, (len(found), 3)), rng.normal(0, 0.7, len(found))])
    moved[:, 3] = np.clip(moved[:, 3], 1, None)
    return np.vstack([moved, _lesions(rng, brain)[: rng.poisson(2)] * [1, 1, 1, 0.4]])


def _draw(lesions: NDArray[np.float64]) -> NDArray[np.uint8]:
    mask = np.zeros(SHAPE, dtype=np.uint8, order="F")
    for *centre, radius in lesions:
        low = [max(int(c - radius) - 1, 0) for c in centre]
        box = tuple(slice(start, start + int(2 * radius) + 4) for start in low)
        axes = np.ogrid[tuple(slice(0, length) for length in mask[box].shape)]
        squares = [(axis + start - c) ** 2 for axis, start, c in zip(axes, low, centre, strict=True)]
        mask[box] |= sum(squares) <= radius**2
    return mask


def _write_images(folder: Path, names: list[str], brain: NDArray[np.bool_]) -> None:
    for number, name in enumerate(names):
        for channel in range(2):
            path = folder / f"{name}_{channel:04d}.nii.gz"
            if path.is_file():
                continue
            if number < SCANS:
                rng = np.random.default_rng(number * 2 + channel)
                texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
                values = 600 + 120 * texture / texture.std() + rng.normal(0, 20, SHAPE)
                _write(path, np.asfortranarray(np.where(brain, values, 0).astype(np.int16)))
            else:
                os.link(folder / f"{names[number % SCANS]}_{channel:04d}.nii.gz", path)


def _write(path: Path, data: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)


if __name__ == "__main__":
    typer.run(main)
