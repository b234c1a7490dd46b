"""Tell whether a head was stripped of its skull, and find the brain where it was not."""

import contextlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.dataset.resampling import resample_mask
from sgnet_nnunet.errors import InputFileError, needs_extra
from sgnet_nnunet.inference.trust import load_pickle
from sgnet_nnunet.nifti import (
    INTEGER_TOLERANCE,
    Grid,
    Volume,
    check_integers,
    have_orientation,
    read_labels,
    values_in,
    write_volume,
)
from sgnet_nnunet.patient.scans import ITK_SUFFIXES, read_by_itk

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SkullReport:
    """Whether a scan is skull-stripped.

    Attributes:
        stripped: Whether it is.
        confidence: 0.5 (a guess) to 1 (certain).
        reason: What was found, in one clause.
    """

    stripped: bool
    confidence: float
    reason: str


COARSE_MM = 2.5
"""Spacing to which a scan is thinned out: skull and scalp are several voxels thick."""

_SHELLS_MM = (8.0, 11.0, 14.0, 18.0, 22.0)
"""Depths in mm below the surface where a head has its skull, and a brain, even an atrophic one, tissue."""

_FAT_MM = (3.0, 6.0)
"""Depth of the scalp below the surface that smoothing leaves."""

_DARK, _BRIGHT = 0.35, 1.3
"""Of the signal of the brain's middle: bone is below the first, fat above the second."""

_CLEAN = 0.9
"""Share of one value on the array's outer faces, from which the air was set to it; a neck reaches one."""

_EQUAL = 1e-4
"""Share of the image's range within which values of the air are one: interpolation leaves traces."""

_LARGEST = 4.0
"""Log-odds that one measure gives at most: none decides alone."""


class _Measures(NamedTuple):
    """What tells a head from a brain.

    Attributes:
        clean: Share of the array's outer faces with one and the same value: 1 if the air was set to 0.
        litres: Volume of what is not air, its holes filled: a brain has 1.0 to 2.0 l, a head 2.5 to 6.
        dark: Share of bone in the darkest shell between 8 and 22 mm below the surface.
        fat: Share of the scalp's place that is as bright as fat.
    """

    clean: float
    litres: float
    dark: float
    fat: float


SMALLEST_KEPT, SMALLEST_COVERED = 0.9, 0.7
"""Shares of a brain mask that have to be on the T1ce grid, and on more than air."""


def judge(t1ce: Volume) -> SkullReport:
    """Tell whether a T1ce scan, in any orientation, is skull-stripped.

    Each of four measures adds to the log-odds of a head; the limits lie midway, or lower, between what 6 real
    stripped scans and phantoms have (dark shell 0.03, 1.8 l) and what heads have (0.25, 2.2 l).
    """
    found = _measure(t1ce)
    terms = (
        _LARGEST if found.clean < _CLEAN else -1.0,  # noise outside
        _term(found.dark - 0.13, 0.03),
        _term(found.litres - 2.1, 0.08),
        2.0 if found.fat > 0.4 else -0.5,  # noqa: PLR2004 - fat may be suppressed
    )
    odds = float(sum(terms))
    confidence = float(1 / (1 + np.exp(-abs(odds))))
    outside = "noise" if found.clean < _CLEAN else "one value"
    reason = (
        f"{found.litres:.2f} l are not air, with {outside} around them; {found.dark:.0%} of a shell is as "
        f"dark as bone, {found.fat:.0%} of the surface as bright as fat"
    )
    return SkullReport(stripped=odds < 0, confidence=confidence, reason=reason)


def _term(value: float, scale: float) -> float:
    return float(np.clip(value / scale, -_LARGEST, _LARGEST))


def _measure(t1ce: Volume) -> _Measures:
    data: NDArray[Any] = t1ce.data
    sizes = np.array(t1ce.grid.spacing)
    faces = np.concatenate([np.take(data, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    stride = np.maximum(1, np.rint(COARSE_MM / sizes)).astype(int)
    thin = data[tuple(slice(None, None, step) for step in stride)].astype(np.float32)
    values, counts = np.unique(faces, return_counts=True)
    air, equal = float(values[counts.argmax()]), _EQUAL * float(np.ptp(np.percentile(thin, [1, 99])))
    clean = float(np.mean(np.abs(faces - air) <= equal))
    coarse, spacing = np.pad(thin, 2, constant_values=air), sizes * stride
    smooth = ndimage.gaussian_filter(coarse, 1.5 / spacing)
    noisy = smooth > air + 0.15 * (float(np.percentile(smooth, 98)) - air)
    solid = _filled(ndimage.binary_opening(np.abs(coarse - air) > equal if clean >= _CLEAN else noisy))
    if not solid.any():
        return _Measures(clean, 0.0, 0.0, 0.0)
    depth = ndimage.distance_transform_edt(solid, sampling=spacing)
    # Voxels below the air's value are tissue where the brain's values were standardised around 0.
    floor = min(air, float(np.percentile(coarse[solid], 0.5))) if clean >= _CLEAN else air
    middle = float(np.median(smooth[depth > 0.5 * depth.max()]))
    signal = (coarse - floor) / max(middle - floor, 1e-30)
    return _Measures(
        clean=clean,
        litres=float(np.count_nonzero(solid) * np.prod(spacing) / 1e6),
        dark=max(_share(signal < _DARK, depth, shell) for shell in pairwise(_SHELLS_MM)),
        fat=_share(signal > _BRIGHT, depth, _FAT_MM),
    )


def _share(found: NDArray[np.bool_], depth: NDArray[np.float64], shell: tuple[float, float]) -> float:
    """Return the share of true voxels between two depths, 0 if there is none."""
    inside = (depth > shell[0]) & (depth <= shell[1])
    return float(np.count_nonzero(found & inside) / max(1, np.count_nonzero(inside)))


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest component, its holes and those of its slices filled."""
    labels, number = ndimage.label(mask)
    if not number:
        return mask
    solid = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    for axis in range(3):
        planes = np.moveaxis(solid, axis, 0)
        for plane in planes:
            plane[...] = ndimage.binary_fill_holes(plane)
    return np.asarray(solid, dtype=np.bool_)


def strip(
    t1ce: Volume, *, path: Path, brain_mask: Path | None = None, hdbet_weights: Path | None = None
) -> tuple[NDArray[np.bool_], str]:
    """Return the brain on the T1ce grid as a boolean array, and where it is from.

    Args:
        t1ce: The scan.
        path: The scan's file, for messages.
        brain_mask: A mask of the brain, on any grid of the same world.
        hdbet_weights: Folder of HD-BET's weights; its own download's folder by default.

    Raises:
        InputFileError: The head is not stripped, and there is neither a mask nor HD-BET with its weights; or
            the mask does not fit the head.
    """
    if brain_mask is not None:
        return _read_brain(brain_mask, t1ce, path), f"the mask {brain_mask.name}"
    remedy = (
        "give a mask of the brain with --brain-mask, or install hd-bet: pip install 'sgnet-nnunet[hdbet]'"
    )
    head = f"a whole head with its skull (confidence {judge(t1ce).confidence:.0%})"
    if hdbet_weights is None and not _has_hdbet():
        raise InputFileError(path, f"is {head}; models are trained on stripped brains", remedy)
    logger.info("T1ce is %s: HD-BET extracts the brain", head)
    return _run_hdbet(t1ce, path, hdbet_weights), "HD-BET"


def _read_brain(path: Path, t1ce: Volume, scan: Path) -> NDArray[np.bool_]:
    """Read a mask of the brain, and bring it onto the grid of the T1ce `scan` through the headers.

    Raises:
        InputFileError: It is no mask, or does not lie over the head.
    """
    if not path.exists():
        raise InputFileError(path, "does not exist", "check its name")
    if path.suffix.lower() in ITK_SUFFIXES:
        read = read_by_itk(path)
        check_integers(path, values_in(read.data))
    else:
        have_orientation((scan, path))
        read = read_labels(path)
    labels: NDArray[Any] = read.data
    mask = Volume(labels > INTEGER_TOLERANCE, read.affine)
    if not mask.data.any():
        raise InputFileError(path, "brain mask is empty", "give the mask of this patient's brain")
    data: NDArray[Any] = t1ce.data
    brain = resample_mask(mask, t1ce.grid)
    kept = _mm3(brain, t1ce.grid) / _mm3(mask.data, mask.grid)
    if kept < SMALLEST_KEPT:
        problem = f"only {kept:.0%} of the brain mask is on the T1ce grid"
        raise InputFileError(path, problem, "make the mask on the T1ce scan, or fix its affine")
    low, high = np.percentile(data, [1, 99])
    covered = float(np.mean(data[brain] > low + 0.05 * (high - low)))
    if covered < SMALLEST_COVERED or brain.all():
        problem = (
            "covers the whole grid" if brain.all() else f"{1 - covered:.0%} of the brain mask lies on air"
        )
        raise InputFileError(path, problem, "give the mask of this patient's brain, made on the T1ce scan")
    return brain


def _mm3(mask: NDArray[np.generic], grid: Grid) -> float:
    return int(np.count_nonzero(mask)) * grid.voxel_mm3


def _has_hdbet() -> bool:
    return importlib.util.find_spec("HD_BET") is not None


_WEIGHTS = Path("fold_all", "checkpoint_final.pth")
_ZENODO = "https://zenodo.org/records/14445620"


def _run_hdbet(t1ce: Volume, path: Path, weights: Path | None) -> NDArray[np.bool_]:
    """Return the brain that HD-BET 2 finds, on the T1ce grid; nothing is downloaded.

    Raises:
        InputFileError: Its weights are missing or damaged, or it finds no brain.
        SGNetError: If hd-bet is not installed.
    """
    with needs_extra("hdbet"), _as_it_was():
        import torch  # noqa: PLC0415
        from HD_BET import hd_bet_prediction, paths  # noqa: PLC0415 - prints, and changes sys.stdout
    folder = weights or Path(paths.folder_with_parameter_files)
    for name in (_WEIGHTS, Path("plans.json"), Path("dataset.json")):
        if not (folder / name).is_file():
            raise InputFileError(
                path,
                f"is a whole head with its skull, and HD-BET's weights lack {name} in {folder}",
                "give --brain-mask, or run hd-bet once, which downloads them, or unzip "
                f"{_ZENODO} and give --hdbet-weights",
            )
    load_pickle(folder / _WEIGHTS)  # refuses what could run code; nnU-Net does not
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with TemporaryDirectory() as temporary, _as_it_was():
        source, result = Path(temporary) / "head.nii.gz", Path(temporary) / "brain"
        write_volume(source, t1ce.oriented("RAS"))
        own, hd_bet_prediction.folder_with_parameter_files = (
            hd_bet_prediction.folder_with_parameter_files,
            str(folder),
        )
        try:
            predictor = hd_bet_prediction.get_hdbet_predictor(use_tta=device.type == "cuda", device=device)
            predictor.predict_from_files_sequential([[str(source)]], [str(result)])
        finally:
            hd_bet_prediction.folder_with_parameter_files = own
        found = read_labels(Path(f"{result}.nii.gz"))
    brain = resample_mask(Volume(np.greater(found.data, 0), found.affine), t1ce.grid)
    if not brain.any():
        raise InputFileError(path, "HD-BET finds no brain in it", "give a mask of it with --brain-mask")
    return brain


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Silence the block, and undo what HD-BET changes: the standard output, threads and the environment."""
    import torch  # noqa: PLC0415

    threads, stdout, environment = torch.get_num_threads(), sys.stdout, dict(os.environ)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdout = stdout
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
