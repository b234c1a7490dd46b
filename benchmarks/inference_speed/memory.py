"""A large image in little memory, and whether its mask is the same as without a limit."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from inference_speed.commands import commands_of, predicting
from inference_speed.names import EXPORTED
from inference_speed.subject import Subject


def measure_memory(subject: Subject, *, shape: tuple[int, ...], max_memory: float) -> dict[str, Any]:
    """Predict a large image in fresh processes, with a budget and without.

    Args:
        subject: The model; the first of its patients, repeated, makes the image.
        shape: x, y, z of the image in voxels of 1 mm.
        max_memory: The budget in GB.
    """
    images = subject.work / "large"
    images.mkdir(exist_ok=True)
    for channel, path in enumerate(subject.cases[subject.first]):
        data = repeated(np.asanyarray(nib.load(path).dataobj), shape)
        nib.save(nib.Nifti1Image(data, np.eye(4)), images / f"large_{channel:04d}{subject.ending}")
        del data
    command = commands_of(subject)[EXPORTED]
    limits = {f"{max_memory:g} GB": ["--max-memory", f"{max_memory:g}"], "what is free": []}
    rows, masks = [], []
    for number, (name, option) in enumerate(limits.items()):
        spent = predicting(subject, [*command, *option], images, f"large_{number}")()
        rows.append({"name": name, "seconds": spent.seconds, "peak_mb": spent.peak_mb})
        masks.append(_read(subject.work / f"masks/large_{number}/large{subject.ending}"))
    limited, free = masks
    return {
        "command_line": EXPORTED,
        "shape_xyz": list(shape),
        "channels": len(subject.cases[subject.first]),
        "budget_mb": 1000 * max_memory,
        "rows": rows,
        "voxels_that_differ": int(np.count_nonzero(limited != free)),
        "mask_voxels": int(np.count_nonzero(free)),
    }


def repeated(volume: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a volume repeated along each axis, and cut, to a shape."""
    indices = [np.arange(length) % own for length, own in zip(shape, volume.shape, strict=True)]
    return np.asarray(volume[np.ix_(*indices)])


def _read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(nib.load(path).dataobj, dtype=np.uint8)
