"""The volumes of one case as they are drawn: on one grid, turned to RAS, each file read once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.io.json_object import read_json
from sgnet_nnunet.io.read import read_image, read_labels
from sgnet_nnunet.io.volume import Volume
from sgnet_nnunet.results.case import PredictedCase


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseVolumes:
    """One case: its images, the reference and every model's prediction.

    All arrays have one shape (x, y, z), their axes as near to right, anterior, superior as the
    grid allows.

    Attributes:
        images: The channels; empty if there is no image on the masks' grid.
        channels: Names of the channels.
        reference: Reference mask, with the data set's values.
        predictions: Predicted masks by model; one that is missing has no voxel.
        affine: 4x4 matrix from voxel index to world millimetres, of all arrays.
    """

    images: tuple[NDArray[np.generic], ...]
    channels: tuple[str, ...]
    reference: NDArray[np.generic]
    predictions: dict[str, NDArray[np.generic]]
    affine: NDArray[np.float64]


def load_case(answers: Sequence[PredictedCase]) -> CaseVolumes:
    """Read the files of one case.

    Args:
        answers: The case as each of the models predicted it, one or more.

    Raises:
        InputFileError: A file cannot be read.
    """
    first = answers[0]
    reference = _canonical(read_labels(first.reference))
    images = [_canonical(read_image(path)) for path in first.images]
    fitting = [image.data for image in images if image.data.shape == reference.data.shape]
    usable = len(fitting) == len(images)
    blank = np.zeros(reference.data.shape, dtype=np.uint8)
    return CaseVolumes(
        images=tuple(fitting) if usable else (),
        channels=channel_names(first.images) if usable else (),
        reference=reference.data,
        predictions={
            answer.model: blank
            if answer.prediction is None
            else _canonical(read_labels(answer.prediction)).data
            for answer in answers
        },
        affine=reference.affine,
    )


def channel_names(images: Sequence[Path]) -> tuple[str, ...]:
    """Return the names that `dataset.json` beside the images' folder gives them, else their numbers.

    Raises:
        InputFileError: If that file is damaged.
    """
    names: dict[str, Any] = {}
    description = images[0].parent.parent / "dataset.json" if images else None
    if description is not None and description.is_file():
        names = read_json(description).get("channel_names", {})
    return tuple(str(names.get(str(i), f"channel {i}")) for i in range(len(images)))


def _canonical(volume: Volume) -> Volume:
    turned = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine, dtype=volume.data.dtype))
    return Volume(np.asanyarray(turned.dataobj), np.asarray(turned.affine, dtype=np.float64))
