"""One patient, from a cold start to the mask on disk."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from inference_speed.commands import EXPORTED_BF16, STOCK_WAYS, commands_of, predicting, rows_of
from inference_speed.names import EXPORTED, TRAINED
from inference_speed.rounds import in_turn, ratio
from inference_speed.subject import Subject

SHAPE = (240, 240, 155)
"""x, y, z in voxels: BraTS's, and at least what a patient is padded to."""


def measure_patient(subject: Subject, *, rounds: int, stock_rounds: int) -> dict[str, Any]:
    """Time a patient's prediction in fresh processes, every way once a round.

    Args:
        subject: The model; the first of its patients is taken.
        rounds: Rounds of our ways.
        stock_rounds: Rounds of nnU-Net's.
    """
    images = subject.work / "patient"
    shape = write_padded(subject.cases[subject.first], images, SHAPE)
    commands = commands_of(subject)
    ways = {
        name: predicting(subject, command, images, f"patient_{number}")
        for number, (name, command) in enumerate(commands.items())
    }
    found = in_turn(ways, {name: stock_rounds if name in STOCK_WAYS else rounds for name in ways})
    times = {name: [spent.seconds for spent in spents] for name, spents in found.items()}
    return {
        "case": subject.first,
        "shape_xyz": list(shape),
        "channels": len(subject.cases[subject.first]),
        "rows": rows_of(found),
        "times_faster": {
            name: {stock: ratio(times[stock], times[name]) for stock in STOCK_WAYS}
            for name in (EXPORTED, EXPORTED_BF16, TRAINED)
            if name in times
        },
    }


def write_padded(paths: list[Path], folder: Path, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Write a patient's images padded with zeros at all sides to at least `shape`; return the new shape.

    Args:
        paths: NIfTI files.
        folder: Folder to write to, under the same names.
        shape: x, y, z in voxels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    padded: NDArray[Any] = np.zeros(0)
    for path in paths:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
        before = [max(wanted - length, 0) // 2 for wanted, length in zip(shape, data.shape, strict=True)]
        padded = padded_to(data, shape)
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ before
        nib.save(nib.Nifti1Image(padded, affine), folder / path.name)
    return padded.shape


def padded_to(data: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return a volume with zeros at all sides, so that no axis is shorter than `shape` says."""
    missing = [max(wanted - length, 0) for wanted, length in zip(shape, data.shape, strict=True)]
    return np.pad(data, [(count // 2, count - count // 2) for count in missing])
