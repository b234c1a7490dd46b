"""The lesions of one patient: labels on the T1ce's grid, measurements, and the files of these.

Diameters are measured between the sides of voxels, not their centres: those of a lesion of one voxel are the
voxel's own lengths, as for the mesh of PyRadiomics (`shape` features).
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import atomic_path, csv_cell, read_json, write_json
from sgnet_nnunet.lesions import Lesions
from sgnet_nnunet.nifti import Grid, Volume
from sgnet_nnunet.patient.midline import Hemisphere, find_midline
from sgnet_nnunet.schemas import Finite, Header, Label, Share, Size, check

FORMAT = "sgnet lesions"
VERSION = 1

_REMEDY = "run sgnet segment again"

ROUNDING_MM = 1e-6
"""Diameters that differ by less are equal; of equal ones the one with the longest perpendicular counts."""

Points = NDArray[np.float64]
"""Points or voxel indices, shape (n, 2) or (n, 3)."""


@dataclass(frozen=True, kw_only=True)
class LesionRecord:
    """One lesion: a 26-connected component of the foreground of any class.

    Attributes:
        number: 1 for the largest lesion; the lesions that the operating point removed come last.
        volume_mm3: Volume in mm3.
        diameter_axial_mm: Longest diameter in mm in the image plane that is closest to axial, on the slice
            where it is longest (RANO-BM).
        perpendicular_mm: Longest diameter in mm perpendicular to it, on the same slice.
        diameter_3d_mm: Longest diameter in mm in any direction.
        centroid_mm: Mean of the voxels' centres in world mm (RAS+, as NIfTI defines it).
        centroid_voxel: The same in indices of the T1ce's array (i, j, k).
        hemisphere: Of the patient.
        location: Coarse region of the brain, by the relative position in its box; no atlas.
        mean_probability: Mean foreground probability of its voxels.
        max_probability: Highest foreground probability of its voxels.
        confidence: Calibrated probability that it is a lesion; None for a model without calibration.
        gate_shares: Share of its voxels that each hard spatial gate enables, by the gate's name; empty for
            a model whose gates are not known.
        kept: Whether the operating point keeps it; a removed lesion is in no mask.
    """

    number: Label
    volume_mm3: Size
    diameter_axial_mm: Size
    perpendicular_mm: Size
    diameter_3d_mm: Size
    centroid_mm: tuple[Finite, Finite, Finite]
    centroid_voxel: tuple[Finite, Finite, Finite]
    hemisphere: Hemisphere
    location: str
    mean_probability: Share
    max_probability: Share
    confidence: Share | None = None
    gate_shares: Mapping[str, Share] = field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True, eq=False, kw_only=True)
class LesionMap:
    """The lesions of one patient on the T1ce's own grid.

    Attributes:
        labels: Number of the kept lesion that each voxel belongs to, 0 elsewhere; uint16, shape (i, j, k)
            in the order of axes of the T1ce's file.
        grid: The T1ce's.
        records: All lesions in the order of their numbers; those that were removed come last.
    """

    labels: NDArray[np.uint16]
    grid: Grid
    records: tuple[LesionRecord, ...]

    @property
    def kept(self) -> tuple[LesionRecord, ...]:
        """The lesions that the operating point keeps: numbers 1 to n, those in `labels`."""
        return tuple(record for record in self.records if record.kept)


@dataclass(frozen=True, kw_only=True)
class _LesionFile:
    """What `lesions.json` says."""

    lesions: tuple[LesionRecord, ...]


def write_lesions_json(path: Path, records: Sequence[LesionRecord]) -> None:
    """Write the lesions as `{"format": "sgnet lesions", "version": 1, "lesions": [...]}`, atomically."""
    lesions = [asdict(record) for record in records]
    write_json(path, {"format": FORMAT, "version": VERSION, "lesions": lesions})


def read_lesions_json(path: Path) -> tuple[LesionRecord, ...]:
    """Return the lesions of `lesions.json`, in the order of their numbers.

    Raises:
        InputFileError: If the file cannot be read, or was not written by this version of `sgnet segment`.
    """
    content = read_json(path, remedy=_REMEDY)
    header = check(path, content, Header, remedy=_REMEDY)
    if (header.format, header.version) != (FORMAT, VERSION):
        problem = f"is {header.format or 'no table of lesions'}, version {header.version}"
        raise InputFileError(path, f"{problem}, not {FORMAT}, version {VERSION}", _REMEDY)
    return check(path, content, _LesionFile, remedy=_REMEDY).lesions


def write_lesions_csv(path: Path, records: Sequence[LesionRecord]) -> None:
    """Write a row for each lesion, atomically; a column `gate_share_NAME` for each gate."""
    gates = list(dict.fromkeys(name for record in records for name in record.gate_shares))
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*_columns(), *(f"gate_share_{name}" for name in gates)])
        for record in records:
            values = (_cells(getattr(record, name)) for name in _FIELDS)
            shares = [record.gate_shares.get(name, "") for name in gates]
            table.writerow([csv_cell(cell) for cells in (*values, shares) for cell in cells])


_FIELDS = tuple(name for name in LesionRecord.__dataclass_fields__ if name != "gate_shares")


def _columns() -> Iterable[str]:
    for name in _FIELDS:
        if name.startswith("centroid_"):
            axes = "xyz" if name == "centroid_mm" else "ijk"
            yield from (f"centroid_{axis}{'_mm' if axes == 'xyz' else ''}" for axis in axes)
        else:
            yield name


def _cells(value: object) -> Sequence[object]:
    if isinstance(value, float):
        return [round(value, 4)]
    if isinstance(value, tuple):
        return [round(each, 3) for each in value]
    return ["" if value is None else str(value).lower() if isinstance(value, bool) else value]


def measure_lesions(
    lesions: Lesions,
    kept: NDArray[np.bool_],
    *,
    probability: NDArray[np.floating],
    brain: Volume,
    confidence_of: Callable[[float], SupportsFloat] | None = None,
    gates_at: Callable[[NDArray[np.intp]], Mapping[str, NDArray[np.floating]]] = lambda _: {},
) -> LesionMap:
    """Measure the lesions of a patient.

    Args:
        lesions: With labels of shape (i, j, k) on the T1ce's own grid.
        kept: Whether the operating point keeps each lesion, shape (lesions,).
        probability: Foreground probability, shape (i, j, k).
        brain: The T1ce without the skull, 0 outside the brain.
        confidence_of: Returns the calibrated confidence of a lesion of a mean probability.
        gates_at: Returns the share of the networks that enable each gate, shape (n,) by the gate's name, at
            voxels (i, j, k), shape (n, 3).
    """
    midline = find_midline(brain)
    measured = []
    for index, box in enumerate(lesions.boxes):
        inside = lesions.labels[box] == index + 1
        voxels = np.argwhere(inside) + [part.start for part in box]
        values = probability[box][inside].astype(np.float64)
        centre = voxels.mean(axis=0)
        world = brain.grid.world(centre[None])[0]
        mean = float(values.mean())
        axial, perpendicular = axial_diameters(voxels, brain.grid)
        record = LesionRecord(
            number=0,
            volume_mm3=float(lesions.volumes_mm3[index]),
            diameter_axial_mm=axial,
            perpendicular_mm=perpendicular,
            diameter_3d_mm=diameter_3d(voxels, brain.grid),
            centroid_mm=_triple(world),
            centroid_voxel=_triple(centre),
            hemisphere=midline.hemisphere(world),
            location=midline.location(world),
            mean_probability=mean,
            max_probability=float(values.max()),
            confidence=None if confidence_of is None else float(confidence_of(mean)),
            gate_shares={name: float(shares.mean()) for name, shares in gates_at(voxels).items()},
            kept=bool(kept[index]),
        )
        measured.append((record, index + 1))
    # Labels come in the order of the array's memory: the same patient on another grid has another one.
    measured.sort(
        key=lambda pair: (not pair[0].kept, -pair[0].volume_mm3, np.round(pair[0].centroid_mm, 1).tolist())
    )
    numbers = np.zeros(lesions.number + 1, dtype=np.uint16)
    records = []
    for number, (record, label) in enumerate(measured, start=1):
        numbers[label] = number if record.kept else 0
        records.append(replace(record, number=number))
    return LesionMap(labels=numbers[lesions.labels], grid=brain.grid, records=tuple(records))


def _triple(values: NDArray[np.floating]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def axial_diameters(voxels: NDArray[np.intp], grid: Grid) -> tuple[float, float]:
    """Return a lesion's longest diameter in mm in the image plane closest to axial, and its perpendicular.

    Both are on the slice where the first is longest, between points of the convex hull of the lesion there.
    RANO-BM (Lin et al., Lancet Oncol 2015) measures the longest diameter, and the longest one perpendicular
    to it, on the axial slice. The voxels are indices, shape (n, 3).
    """
    axis = axial_axis(grid)
    others = [other for other in range(3) if other != axis]
    plane = np.asarray(np.linalg.qr(grid.affine[:3, others], mode="r"))  # its columns keep lengths and angles
    best, perpendicular = 0.0, 0.0
    for k in np.unique(voxels[:, axis]):
        points = _sides(_row_ends(voxels[voxels[:, axis] == k][:, others])) @ plane.T
        hull = points[ConvexHull(points).vertices]  # in their order around it
        longest = float(pdist(hull).max())
        if longest < best - ROUNDING_MM:
            continue
        across = _perpendicular(hull, longest)
        perpendicular = max(across, perpendicular) if longest <= best + ROUNDING_MM else across
        best = max(best, longest)
    return best, perpendicular


def axial_axis(grid: Grid) -> int:
    """Return the axis of an array along which its slices, the closest to axial ones, are stacked."""
    return int(np.argmax(io_orientation(grid.affine)[:, 0] == 2))  # noqa: PLR2004 - the world's third axis


def diameter_3d(voxels: NDArray[np.intp], grid: Grid) -> float:
    """Return a lesion's longest diameter in mm in any direction; the voxels are indices, shape (n, 3)."""
    points = grid.millimetres(_sides(_row_ends(voxels)))
    return float(pdist(points[ConvexHull(points).vertices]).max())


def _row_ends(voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the first and the last voxel of each row along the last axis: the hull has no others."""
    voxels = voxels[np.lexsort(voxels.T[::-1])]
    changes = np.flatnonzero((np.diff(voxels[:, :-1], axis=0) != 0).any(axis=1))
    return voxels[np.concatenate([[0], changes, changes + 1, [len(voxels) - 1]])]


def _sides(voxels: NDArray[np.intp]) -> Points:
    """Return the centres of the sides of voxels, in indices."""
    steps = np.concatenate([np.eye(voxels.shape[1]), -np.eye(voxels.shape[1])]) / 2
    return np.asarray((voxels[:, None] + steps).reshape(-1, voxels.shape[1]))


def _perpendicular(hull: Points, longest: float) -> float:
    """Return the longest chord of a convex polygon that is perpendicular to a longest diagonal.

    The points are in their order around the polygon, shape (n, 2).
    """
    ends = np.argwhere(np.triu(squareform(pdist(hull))) >= longest - ROUNDING_MM)
    return max(_chord(hull, first, last) for first, last in ends.tolist())


def _chord(hull: Points, first: int, last: int) -> float:
    """Return the longest chord of a convex polygon that is perpendicular to the diagonal of two points."""
    along = (hull[last] - hull[first]) / np.linalg.norm(hull[last] - hull[first])
    # No other point reaches as far along the diagonal as its ends, so both chains rise from one to the other.
    hull = np.roll(hull, -first, axis=0)
    last = (last - first) % len(hull)
    t, s = hull @ along, hull @ np.array([-along[1], along[0]])
    one = np.interp(t, t[: last + 1], s[: last + 1])
    other = np.interp(t, np.append(t[last:], t[0])[::-1], np.append(s[last:], s[0])[::-1])
    return float(np.abs(one - other).max())
