"""Every lesion of a case by itself: found or not, how well, how large and where."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.distance import HD95
from sgnet_nnunet.evaluation.lesions import Lesions, lesions_of
from sgnet_nnunet.evaluation.overlap import Dice
from sgnet_nnunet.evaluation.pair import MaskPair, once_per_pair

Status = Literal["detected", "missed", "false positive"]


@dataclass(frozen=True)
class LesionRow:
    """One lesion of a reference, or one that a prediction has and the reference has not.

    Attributes:
        status: `detected` if a predicted lesion has a voxel in common with it.
        dice: Dice of the lesion and all predicted lesions that meet it; 0 if there is none.
        hd95_mm: Their directed HD95 in mm; the image's diagonal if there is none.
        volume_mm3: Volume in mm3.
        diameter_mm: Diameter in mm of the sphere of that volume.
        centroid_mm: Mean of the voxels' centres in world mm, x, y, z.
    """

    status: Status
    dice: float
    hd95_mm: float
    volume_mm3: float
    diameter_mm: float
    centroid_mm: tuple[float, float, float]

    @property
    def detected(self) -> bool:
        """Whether this is a lesion of the reference that the prediction finds."""
        return self.status == "detected"


@once_per_pair
def lesion_rows(pair: MaskPair) -> tuple[LesionRow, ...]:
    """Return the reference's lesions, then the false positives, the largest first."""
    match = lesions_of(pair)
    worst = Dice().worst(pair.grid), HD95().worst(pair.grid)
    centroids = _centroids(match.reference, pair.reference, pair)
    reference = []
    for lesion in range(match.reference.number):
        partners = match.predicted[match.actual == lesion]
        if partners.size:
            alone = pair_of_lesion(pair, lesion, partners)
            scores = Dice()(alone), HD95()(alone)
            reference.append(_row("detected", scores, match.reference, lesion, centroids))
        else:
            reference.append(_row("missed", worst, match.reference, lesion, centroids))
    centroids = _centroids(match.prediction, pair.prediction, pair)
    unmatched = map(int, np.flatnonzero(~match.hits))
    false = [_row("false positive", worst, match.prediction, lesion, centroids) for lesion in unmatched]
    # Labels come in the order of the masks' memory, which no reader of a table should see.
    return tuple(row for rows in (reference, false) for row in sorted(rows, key=_largest_first))


def _largest_first(row: LesionRow) -> tuple[float, ...]:
    return -row.volume_mm3, *row.centroid_mm


def pair_of_lesion(pair: MaskPair, lesion: int, partners: NDArray[np.intp]) -> MaskPair:
    """Return a lesion of the reference beside predicted lesions, without all others.

    The same pair each time, since the rows and the presets mostly ask for the same partners.

    Args:
        pair: The pair of masks.
        lesion: Index of the reference's lesion.
        partners: Indices of one or more predicted lesions, shape (n,).
    """
    key = (pair_of_lesion, lesion, *partners.tolist())
    if key not in pair.results:
        pair.results[key] = _isolate(pair, lesion, partners)
    alone: MaskPair = pair.results[key]
    return alone


def _isolate(pair: MaskPair, lesion: int, partners: NDArray[np.intp]) -> MaskPair:
    match = lesions_of(pair)
    boxes = [match.reference.boxes[lesion], *(match.prediction.boxes[partner] for partner in partners)]
    around = tuple(
        slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes))
        for axis in range(3)
    )
    chosen = np.zeros(match.prediction.number + 1, dtype=bool)
    chosen[partners + 1] = True
    return MaskPair(
        chosen[match.prediction.labels[around]],
        match.reference.labels[around] == lesion + 1,
        affine=pair.grid.affine,
    )


def _centroids(lesions: Lesions, mask: NDArray[np.bool_], pair: MaskPair) -> NDArray[np.float64]:
    """Return the mean of each lesion's voxel centres in world mm, shape (number, 3)."""
    if not lesions.number:
        return np.empty((0, 3))
    voxels = np.flatnonzero(mask)
    labels = lesions.labels.ravel()[voxels]
    axes = np.unravel_index(voxels, mask.shape)
    sums = [np.bincount(labels, weights=axis, minlength=lesions.number + 1)[1:] for axis in axes]
    return pair.grid.world(np.stack(sums, axis=1) / lesions.voxels[:, None] + pair.origin)


def _row(
    status: Status, scores: tuple[float, float], lesions: Lesions, index: int, centroids: NDArray[np.float64]
) -> LesionRow:
    x, y, z = (float(coordinate) for coordinate in centroids[index])
    volume, diameter = float(lesions.volumes_mm3[index]), float(lesions.diameters_mm[index])
    return LesionRow(status, *scores, volume, diameter, (x, y, z))
