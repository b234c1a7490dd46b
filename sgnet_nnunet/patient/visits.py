"""One visit of a patient, as `sgnet segment` left it, in the world of the first visit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.dataset.registration import register_rigid
from sgnet_nnunet.dataset.resampling import field_of_view, resample_image, resample_mask
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import Volume, read_image, read_labels
from sgnet_nnunet.patient.lesion_table import LesionRecord, axial_axis, read_lesions_json
from sgnet_nnunet.patient.outputs import LESIONS_JSON, MASK, RUN, RUN_FORMAT, RUN_VERSION, T1CE

Matrix = NDArray[np.float64]

CENTRES_APART_MM = 5.0
"""Distance of the brains' centres from which they, not the headers, are where registration starts."""

SMALLEST_BRAIN_DICE, USUAL_BRAIN_DICE = 0.85, 0.94
"""Of two registered brains: below the one they are refused, below the other it is a warning.

Two visits of a phantom have 0.997, phantoms of two patients 0.90 to 0.93.
"""

SMALLEST_CORRELATION = 0.65
"""Of the fine structure of two registered brains: visits of patients below it are refused.

Two visits of 3 phantoms have 0.95 to 0.98, as have 2 real scans and themselves in another contrast and
position, with thicker slices; 3 pairs of phantoms have 0.54 to 0.56, 5 of real patients 0.12 to 0.34. No
real patient with two visits was at hand.
"""

_FINE_MM, _INNER_MM, _FEWEST_VOXELS = (1.5, 8.0), 8.0, 1000

_CENTROID_TOLERANCE = 0.01  # voxels, for rounding
_VOLUME_TOLERANCE = 1e-3  # a header keeps the voxel's size in single precision
_REMEDY = "name a folder that sgnet segment wrote"


@dataclass(frozen=True, eq=False, kw_only=True)
class Visit:
    """What `sgnet segment` found at one visit.

    Attributes:
        folder: Its folder.
        brain: T1ce without the skull.
        labels: Number of the lesion of each voxel, 0 elsewhere, shape (i, j, k) of the T1ce.
        records: The lesions, number 1 first.
        run: What `run.json` says.
        world_map: 4x4 rigid matrix from the first visit's world to this one's, in mm.
        registration: Of the T1ce with the first visit's; empty at the first.
    """

    folder: Path
    brain: Volume
    labels: NDArray[np.uint16]
    records: tuple[LesionRecord, ...]
    run: Mapping[str, Any]
    world_map: Matrix = field(default_factory=lambda: np.eye(4))
    registration: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def voxels(self) -> tuple[NDArray[np.intp], Matrix]:
        """The number of the lesion of each foreground voxel, and its centre in the first visit's world."""
        indices = np.argwhere(self.labels)
        to_first = np.linalg.inv(self.world_map) @ self.brain.affine
        return self.labels[tuple(indices.T)].astype(np.intp), apply_affine(to_first, indices)

    @cached_property
    def volumes(self) -> NDArray[np.float64]:
        """Volume of each lesion in mm3, shape (lesions,)."""
        return np.array([record.volume_mm3 for record in self.records])

    @cached_property
    def centroids(self) -> Matrix:
        """Centroid of each lesion in the first visit's world, shape (lesions, 3)."""
        points = np.reshape([record.centroid_mm for record in self.records], (-1, 3))
        return np.asarray(apply_affine(np.linalg.inv(self.world_map), points))

    def axial_slices(self, number: int) -> int:
        """Return in how many slices of the plane closest to axial a lesion is."""
        return len(np.unique(np.nonzero(self.labels == number)[axial_axis(self.brain.grid)]))

    def inside(self, other: "Visit") -> Matrix:
        """Return the volume in mm3 of each lesion in each of another visit, shape (lesions, others)."""
        numbers, points = self.voxels
        to_other = np.linalg.inv(other.brain.affine) @ other.world_map
        places = np.rint(apply_affine(to_other, points)).astype(np.intp).reshape(-1, 3)
        known = ((places >= 0) & (places < other.labels.shape)).all(axis=1)
        common = np.zeros((len(self.records) + 1, len(other.records) + 1))
        np.add.at(common, (numbers[known], other.labels[tuple(places[known].T)]), self.brain.grid.voxel_mm3)
        return common[1:, 1:]


def read_visit(folder: Path) -> Visit:
    """Read what is needed of a folder of `sgnet segment`.

    Raises:
        InputFileError: If a file is missing or damaged, or the mask is not that of the lesions' table.
    """
    run = read_json(folder / RUN, remedy=_REMEDY)
    if (run.get("format"), run.get("version")) != (RUN_FORMAT, RUN_VERSION):
        raise InputFileError(folder / RUN, f"is not {RUN_FORMAT}, version {RUN_VERSION}", _REMEDY)
    brain, mask = read_image(folder / T1CE), read_labels(folder / MASK)
    if not brain.grid.same_place_as(mask.grid):
        raise InputFileError(folder / MASK, f"is not on the grid of {T1CE}", _REMEDY)
    records = tuple(record for record in read_lesions_json(folder / LESIONS_JSON) if record.kept)
    lesions = find_lesions(np.greater(mask.data, 0), spacing=mask.grid.spacing)
    numbers = np.zeros(lesions.number + 1, dtype=np.uint16)
    places = np.reshape([record.centroid_voxel for record in records], (-1, 3))
    centres = ndimage.center_of_mass(lesions.labels > 0, lesions.labels, np.arange(1, lesions.number + 1))
    for label, centre in enumerate(np.reshape(centres, (-1, 3)), start=1):
        same = np.flatnonzero(np.abs(places - centre).max(axis=1) < _CENTROID_TOLERANCE)
        numbers[label] = records[same[0]].number if len(same) == 1 else 0
    volumes = np.append(0, [record.volume_mm3 for record in records])[numbers[1:]]
    if sorted(numbers[1:]) != [record.number for record in records] or not np.allclose(
        volumes, lesions.volumes_mm3, rtol=_VOLUME_TOLERANCE
    ):
        problem = f"holds other lesions ({lesions.number}) than {LESIONS_JSON} ({len(records)})"
        raise InputFileError(folder / MASK, problem, "run sgnet segment again")
    return Visit(folder=folder, brain=brain, labels=numbers[lesions.labels], records=records, run=run)


def check_patients(visits: Sequence[Visit]) -> None:
    """Refuse visits of different patients, as far as the codes of `run.json` tell.

    Raises:
        InputFileError: If two codes differ.
    """
    coded = [visit for visit in visits if visit.run.get("patient_code")]
    for visit in coded[1:]:
        if visit.run["patient_code"] != coded[0].run["patient_code"]:
            raise InputFileError(
                visit.folder,
                f"is of another patient than {coded[0].folder} (PatientID)",
                "name folders of one patient, or pass --same-patient if its ids were changed",
            )


def registered(first: Visit, visit: Visit, *, same_patient: bool = False) -> Visit:
    """Return a visit with its registration; that it is of the same patient may be known.

    It starts where the headers place the brains, or at equal centres if these are apart.

    Raises:
        SGNetError: If the brains do not match afterwards.
    """
    start = np.eye(4)
    shift = _centre(visit.brain) - _centre(first.brain)
    if np.linalg.norm(shift) > CENTRES_APART_MM:
        start[:3, 3] = shift
    moved = Volume(visit.brain.data, np.linalg.inv(start) @ visit.brain.affine)
    found = register_rigid(first.brain, moved)
    world_map = start @ found.world_map
    common = field_of_view(visit.brain, first.brain.grid, world_map=world_map)
    brain = Volume(visit.brain.data != 0, visit.brain.affine)
    there = resample_mask(brain, first.brain.grid, world_map=world_map)
    here = (first.brain.data != 0) & common
    dice = 2 * np.count_nonzero(here & there) / max(np.count_nonzero(here) + np.count_nonzero(there), 1)
    if dice < SMALLEST_BRAIN_DICE:
        raise SGNetError(
            f"{visit.folder}: its brain is another than that of {first.folder} (Dice {dice:.2f} after "
            f"registration, below {SMALLEST_BRAIN_DICE}); name visits of one patient, stripped alike"
        )
    alike = _fine_correlation(first.brain, visit.brain, world_map, here & there)
    if alike < SMALLEST_CORRELATION and not same_patient:
        raise InputFileError(
            visit.folder,
            f"its brain has another structure than that of {first.folder} (correlation {alike:.2f} after "
            f"registration, {SMALLEST_CORRELATION} or more for one patient)",
            "name visits of one patient, or pass --same-patient if they are",
        )
    registration = {
        "structure_correlation": round(alike, 4),
        "similarity_before": found.before,
        "similarity_after": found.after,
        "brain_dice": round(dice, 4),
        "note": found.note,
    }
    return replace(visit, world_map=world_map, registration=registration)


def _fine_correlation(first: Volume, other: Volume, world_map: Matrix, common: NDArray[np.bool_]) -> float:
    """Return the correlation of what two brains show within 1.5 to 8 mm, away from their surface.

    It is 1 where too little of them is common to tell.
    """
    spacing = np.array(first.grid.spacing)
    inner = ndimage.binary_erosion(common, iterations=round(_INNER_MM / spacing.max()))
    if np.count_nonzero(inner) < _FEWEST_VOXELS:
        return 1.0
    there = resample_image(
        Volume(other.data.astype(np.float32), other.affine), first.grid, world_map=world_map
    )
    fine = []
    for image in (first.data.astype(np.float32), there):
        narrow, wide = (ndimage.gaussian_filter(image, mm / spacing) for mm in _FINE_MM)
        fine.append((narrow - wide)[inner])
    return float(np.corrcoef(*fine)[0, 1])


def _centre(brain: Volume) -> NDArray[np.float64]:
    """Return the mean of the foreground's voxel centres in world mm, shape (3,)."""
    return np.asarray(apply_affine(brain.affine, ndimage.center_of_mass(brain.data != 0)))
