"""Speed of the metrics compared with MONAI's and panoptica's, on the same masks in one run.

    OMP_NUM_THREADS=1 python benchmarks/metric_speed.py REFERENCES

Each reference is compared with a copy whose edge is moved by smooth noise and that has eight false
positives. Times are processor seconds of one thread, so that other work on the machine does not count; files
are read and modules imported beforehand.
"""

import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Annotated

import nibabel as nib
import numpy as np
import pandas as pd
import panoptica
import torch
import typer
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage
from timing import markdown

from sgnet_nnunet.evaluation.lesion_metrics import lesion_rows
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import case_metrics, measure
from sgnet_nnunet.evaluation.surface_metrics import hd95_directed, nsd_1mm

Mask = NDArray[np.bool_]
Timed = Callable[[Mask, Mask, NDArray[np.float64]], object]

EVALUATOR = panoptica.Panoptica_Evaluator(
    expected_input=panoptica.InputType.SEMANTIC,
    instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
    instance_matcher=panoptica.MaxBipartiteMatching(
        matching_metric=panoptica.Metric.DSC, matching_threshold=1e-6
    ),
    instance_metrics=[panoptica.Metric.DSC],
    global_metrics=[panoptica.Metric.DSC],
)


def ours(prediction: Mask, reference: Mask, affine: NDArray[np.float64]) -> None:
    """Compute every metric of a case and the rows of its lesions."""
    pair = MaskPair(prediction, reference, affine=affine)
    measure(pair)
    lesion_rows(pair)


def ours_hd95_nsd(prediction: Mask, reference: Mask, affine: NDArray[np.float64]) -> None:
    """Compute HD95 and NSD."""
    measure(MaskPair(prediction, reference, affine=affine), (hd95_directed, nsd_1mm))


def monai_hd95_nsd(prediction: Mask, reference: Mask, affine: NDArray[np.float64]) -> None:
    """Compute MONAI's HD95 and NSD."""
    masks = torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None]
    spacing = [float(size) for size in voxel_sizes(affine)]
    compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
    compute_surface_dice(*masks, [1.0], include_background=True, spacing=spacing)


def panoptica_hd95_lesions(prediction: Mask, reference: Mask, affine: NDArray[np.float64]) -> None:
    """Compute panoptica's HD95, and the Dice of its lesions, matched one to one."""
    spacing = tuple(float(size) for size in voxel_sizes(affine))
    EVALUATOR.evaluate(prediction.astype(np.uint8), reference.astype(np.uint8))
    panoptica.Metric.HD95(reference, prediction, voxelspacing=spacing)


TIMED: dict[str, Timed] = {
    f"ours: all {len(case_metrics())} metrics, every lesion": ours,
    "ours: HD95, NSD": ours_hd95_nsd,
    "MONAI: HD95, NSD": monai_hd95_nsd,
    "panoptica: HD95, lesions one to one, Dice": panoptica_hd95_lesions,
}


def main(
    references: Annotated[Path, typer.Argument(help="Folder of reference masks, searched through.")],
    pattern: Annotated[str, typer.Option(help="Which files are masks.")] = "*.nii.gz",
    rounds: Annotated[int, typer.Option(min=1, help="How often each case is timed; the median counts.")] = 5,
) -> None:
    """Print a table of seconds a case: median and maximum over the cases."""
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {name: [] for name in TIMED}
    images = [nib.load(path) for path in sorted(references.rglob(pattern))]
    masks = [np.asarray(image.dataobj) > 0 for image in images]
    cases = [(_imitate(mask), mask, image.affine) for mask, image in zip(masks, images, strict=True)]
    for case in cases:
        for name, function in TIMED.items():
            rows[name].append(_median_time(function, case, rounds))
    shapes = sorted({" x ".join(map(str, reference.shape)) for _, reference, _ in cases})
    typer.echo(f"{len(cases)} cases of {', '.join(shapes)} voxels, median of {rounds} rounds\n")
    frame = pd.DataFrame(rows).agg(["median", "max"]).T.round(3)
    typer.echo(markdown(frame.rename_axis("processor seconds a case").reset_index()))


def _imitate(reference: Mask) -> Mask:
    """Return the reference with an edge that is off by some mm, smoothly, and eight false positives."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal(reference.shape), 4)
    smooth = ndimage.gaussian_filter(reference.astype(np.float64), 1)
    prediction = smooth + 0.25 * noise / noise.std() > 0.5  # noqa: PLR2004
    prediction &= ndimage.binary_dilation(reference, iterations=4)
    for _ in range(8):
        corner = [int(rng.integers(0, max(length - 6, 1))) for length in reference.shape]
        prediction[tuple(slice(c, c + int(rng.integers(1, 7))) for c in corner)] = True
    return np.asfortranarray(prediction)  # as nibabel reads files


def _median_time(function: Timed, case: tuple[Mask, Mask, NDArray[np.float64]], rounds: int) -> float:
    times = []
    function(*case)
    for _ in range(rounds):
        start = process_time()
        function(*case)
        times.append(process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    typer.run(main)
