"""Bring FLAIR onto the T1ce grid: through the headers, or registered where those are not enough."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.dataset.resampling import field_of_view, resample_image
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.nifti import Grid, Volume

Mode = Literal["auto", "never", "always"]
Tried = Literal["nothing", "small moves", "registration"]

SMALLEST_MOVE_MM = 1.0
"""`auto` takes a registration only if it moves a part of the head by more; it is exact to half of it."""

SMALLEST_GAIN = 0.02
"""Share by which it must raise the mutual information for `auto`; a tilt of one degree makes some 5 %."""

PROBED_GAIN = 0.015
"""Share by which a small move must raise the similarity for `auto` to register. In 10 phantoms and 6 real
pairs that are aligned the best of them raises it by 0.006 at most, by 0.028 or more if FLAIR is 3 mm or
3 degrees off."""

COVERAGE_REFUSED, COVERAGE_NOTED = 0.5, 0.95
"""Share of the head on the T1ce grid that FLAIR covers, below which it is refused, or noted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Aligned:
    """FLAIR on the T1ce grid.

    Attributes:
        volume: FLAIR's voxels on the grid of T1ce, 0 outside its field of view.
        registered: Whether it was moved; else the headers place it.
        tried: What FLAIR was compared with T1ce after: small moves only, if none of them is clearly better.
        similarity_before: Mutual information of both images in nats as the headers place them; None if it
            was not measured.
        similarity_after: That after the registration that was tried, or after the best of the small moves;
            those are compared in a lower resolution.
        transform: 4x4 rigid matrix from T1ce's world to FLAIR's world, in mm (RAS+); identity if not moved.
        moved_mm: How far the registration that was tried moves the outer parts of the head at most.
        coverage: Share of T1ce's foreground that lies in FLAIR's field of view, 0 to 1.
        warnings: What was unusual.
    """

    volume: Volume
    registered: bool
    tried: Tried
    similarity_before: float | None
    similarity_after: float | None
    transform: NDArray[np.float64]
    moved_mm: float
    coverage: float
    warnings: tuple[str, ...] = ()


def align(fixed: Volume, moving: Volume, *, mode: Mode = "auto") -> Aligned:
    """Bring FLAIR (`moving`) onto the grid of T1ce (`fixed`).

    Args:
        fixed: T1ce.
        moving: FLAIR, on any grid that overlaps it in the world.
        mode: `never` trusts the headers, `always` takes a registration that raises the similarity, and
            `auto` only one that raises it by `SMALLEST_GAIN` and moves the head by `SMALLEST_MOVE_MM`. It
            tries none unless a move of 2.5 mm or 2.5 degrees raises the similarity by `PROBED_GAIN`.

    Raises:
        SGNetError: If FLAIR covers too little of T1ce.
    """
    _coverage(fixed, moving, None)  # else there is nothing to register
    tried: Tried = "nothing"
    before = after = None
    transform, moved, warnings = np.eye(4), 0.0, []
    if mode != "never":
        # SimpleITK takes half a second to import.
        from sgnet_nnunet.dataset.registration import UNIMPROVED, probe, register_rigid  # noqa: PLC0415

        tried, near = "registration", probe(fixed, moving) if mode == "auto" else None
        if near is not None and near[1] < (1 + PROBED_GAIN) * near[0]:
            tried, (before, after) = "small moves", near
    if tried == "registration":
        found = register_rigid(fixed, moving)
        before, after, moved = found.before, found.after, _displacement(fixed.grid, found.world_map)
        gain = (after - before) / abs(before) if before and after is not None else 0.0
        if not found.note and (mode == "always" or (gain >= SMALLEST_GAIN and moved >= SMALLEST_MOVE_MM)):
            transform = found.world_map
            warnings.append(f"FLAIR was registered to T1ce: the headers are up to {moved:.1f} mm off")
        elif found.note and UNIMPROVED not in found.note:
            warnings.append(f"FLAIR was {found.note}; the headers are trusted")
    coverage = _coverage(fixed, moving, transform)
    if coverage < COVERAGE_NOTED:
        warnings.append(f"FLAIR covers {coverage:.0%} of the head on T1ce; it counts as 0 elsewhere")
    data = resample_image(moving, fixed.grid, world_map=transform)
    return Aligned(
        volume=Volume(data, fixed.affine),
        registered=not np.array_equal(transform, np.eye(4)),
        tried=tried,
        similarity_before=before,
        similarity_after=after,
        transform=transform,
        moved_mm=moved,
        coverage=coverage,
        warnings=tuple(warnings),
    )


def _coverage(fixed: Volume, moving: Volume, world_map: NDArray[np.float64] | None) -> float:
    """Return the share of T1ce's foreground that FLAIR covers; refuse too little."""
    inside = field_of_view(moving, fixed.grid, world_map=world_map)
    head = fixed.data > fixed.data.mean()  # brighter than most: rough, and the same for any background
    coverage = float(np.count_nonzero(inside & head) / max(1, np.count_nonzero(head)))
    if coverage < COVERAGE_REFUSED:
        raise SGNetError(f"FLAIR covers {coverage:.0%} of the head on T1ce; check that both are of one visit")
    return coverage


def _displacement(grid: Grid, transform: NDArray[np.float64]) -> float:
    """Return how far a transform moves, in mm, the points midway between a grid's centre and its corners."""
    points = grid.world((grid.corners + (np.array(grid.shape) - 1) / 2) / 2)
    moved = points @ transform[:3, :3].T + transform[:3, 3]
    return float(np.linalg.norm(moved - points, axis=1).max())
