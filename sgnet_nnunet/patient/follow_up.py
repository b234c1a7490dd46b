"""Follow-up: the lesions of one patient over two or more visits, from folders that `sgnet segment` wrote.

A lesion keeps its number from visit to visit; what becomes of it, and the response by RANO-BM, are computed
from the volumes and diameters that each visit's folder lists.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import atomic_path, checksum_of, csv_cell, output_folder, write_json, write_text
from sgnet_nnunet.nifti import at_least
from sgnet_nnunet.patient.dicom_objects import lesion_colour
from sgnet_nnunet.patient.outputs import LESIONS_JSON, MASK, RESEARCH_ONLY, T1CE
from sgnet_nnunet.patient.visits import (
    SMALLEST_CORRELATION,
    USUAL_BRAIN_DICE,
    Matrix,
    Visit,
    check_patients,
    read_visit,
    registered,
)
from sgnet_nnunet.report.figures import DPI, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT, VERSION = "sgnet changes", 1
CHANGES_CSV, CHANGES_JSON, CHANGES_PNG, CHANGES_MD = (
    f"changes.{end}" for end in ("csv", "json", "png", "md")
)

Status = Literal["first", "new", "recurred", "grown", "shrunk", "stable", "gone", "absent", "merged"]
CHANGES: tuple[Status, ...] = ("new", "recurred", "grown", "shrunk", "stable", "gone", "merged")
Response = Literal["CR", "PR", "SD", "PD", "non-CR/non-PD", "no lesions"]

SAME_PLACE_MM = 5.0
"""Distance of the centroids within which lesions that have no voxel in common can still be one."""

FAR_MM = 10.0
"""Distance of the centroids that counts as much as having no voxel in common."""

MOST_INSIDE = 0.5
"""Share of a lesion that lies in another one of the other visit if it merged with it, or split off it."""

_FORBIDDEN = 1e6  # cost of a pair that is not allowed: as many are matched as can be

STABLE_VOXELS = 0.5
"""Change, in voxels, of the diameter of the sphere of equal volume below which a lesion is stable."""

MEASURABLE_MM, SHORT_AXIS_MM, FEWEST_SLICES, MOST_TARGETS = 10.0, 5.0, 2, 5
PARTIAL, PROGRESSIVE, PROGRESSIVE_MM = 0.7, 1.2, 5.0

EQUIVOCAL_MM = 5.0
"""RANO-BM calls a new lesion equivocal "for example, because of its small size", and names no size."""

RANO_BM = (
    "RANO-BM (Lin et al., Lancet Oncol 2015;16:e270-78). Target lesions: the up to five longest lesions of "
    "the first visit that are at least 10 mm long, with a perpendicular of at least 5 mm, in at least two "
    "axial slices. PD: the sum of their longest axial diameters is at least 20 % above its minimum so far "
    "(nadir), and one of them is at least 5 mm longer than it was then; or a lesion is new, or recurs after "
    "CR. A new lesion of at most 5 mm is equivocal here until it is found at a second visit; RANO-BM names "
    "no size. CR: no lesion is left. PR: the sum is at least 30 % below that of the first visit (baseline). "
    "SD: otherwise; non-CR/non-PD without target lesions. The criteria also ask for what is not known here: "
    "confirmation after four weeks, corticosteroids, clinical status, unequivocal progression of other "
    "lesions, immunotherapy. Diameters are those of the mask: with a model that segments oedema too, the "
    "class is not RANO-BM's."
)
"""The rule that `respond` follows, with its source and its limits."""

MATCHING = (
    "A lesion is matched with at most one of the next visit, by the assignment with the least sum of "
    f"1 - overlap (share of the smaller lesion) + distance of the centroids / {FAR_MM:g} mm. Lesions "
    f"without overlap are matched up to {SAME_PLACE_MM:g} mm between their centroids. An unmatched lesion "
    "of which at least half lies in a matched one has merged with it, or is a part split off it. Grown, "
    "shrunk: the diameter of the sphere of equal volume changed by half a voxel of the coarser scan, or by "
    "the smallest change that was asked for."
)
"""How lesions are matched and classed."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One lesion at one visit.

    Attributes:
        status: What became of it since the visit before; `first` at the first, `absent` before a lesion is
            new and after it is gone or merged.
        lesions: Its number in the visit's own table; several if it was split.
        volume_mm3: Volume, the sum of all parts.
        diameter_axial_mm: Longest axial diameter; the sum of those of all parts, as in RANO-BM.
        perpendicular_mm: The perpendicular of the largest part; `axial_slices` is the number of its slices.
        change_mm: Change of the diameter of the sphere of equal volume since it was last seen; of the sum of
            all that merged.
        note: Which lesions merged, or that it was split.
    """

    status: Status
    lesions: tuple[int, ...] = ()
    volume_mm3: float = 0.0
    diameter_axial_mm: float = 0.0
    perpendicular_mm: float = 0.0
    axial_slices: int = 0
    change_mm: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ResponseAt:
    """The response at a visit; sums are those of the target lesions' longest diameters in mm."""

    response: Response
    sum_mm: float
    first_sum_mm: float
    smallest_sum_mm: float
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class FollowUp:
    """All lesions at all visits.

    Attributes:
        visits: In the order of time.
        lesions: For each lesion, its observations, one a visit.
        targets: Indices of the target lesions in `lesions`.
        responses: For each visit after the first.
        smallest_change_mm: The change of the diameter that was asked for; None for half a voxel.
        warnings: Why the visits may not be comparable.
    """

    visits: tuple[Visit, ...]
    lesions: tuple[tuple[Observation, ...], ...]
    targets: tuple[int, ...]
    responses: tuple[ResponseAt, ...]
    smallest_change_mm: float | None
    warnings: tuple[str, ...]


def follow(
    folders: Sequence[Path],
    *,
    smallest_change_mm: float | None = None,
    same_patient: bool = False,
    on_done: Callable[[], None] = lambda: None,
) -> FollowUp:
    """Follow the lesions of one patient.

    Args:
        folders: Folders of `sgnet segment`, in the order of time, at least two.
        smallest_change_mm: Change of the diameter of a lesion that has grown or shrunk; half a voxel of the
            coarser scan if None.
        same_patient: Do not compare who the visits are of.
        on_done: Called when a visit is registered.

    Raises:
        InputFileError: A folder is not one of `sgnet segment`, or is of another patient.
        SGNetError: There are fewer than two folders, or a T1ce cannot be registered.
    """
    if len(folders) < 2:  # noqa: PLR2004
        raise SGNetError("a follow-up needs two folders of sgnet segment at least")
    visits = [read_visit(folder) for folder in folders]
    if not same_patient:
        check_patients(visits)
    for index, visit in enumerate(visits):
        if index:
            visits[index] = registered(visits[0], visit, same_patient=same_patient)
        on_done()
    return compare_visits(visits, smallest_change_mm=smallest_change_mm)


def compare_visits(visits: Sequence[Visit], *, smallest_change_mm: float | None = None) -> FollowUp:
    """Follow the lesions over visits that are registered, as `follow` does."""
    tracks: list[_Track] = []
    for index in range(len(visits)):
        _continue(tracks, visits, index, smallest_change_mm)
    lesions = tuple(tuple(track.seen) for track in tracks)
    targets = choose_targets([lesion[0] for lesion in lesions])
    differences = (
        f"the visits were segmented with different {name}"
        for name in ("versions", "models", "settings")
        if any(visit.run.get(name) != visits[0].run.get(name) for visit in visits)
    )
    doubts = (
        f"visit {number}: the brain differs from the first visit's (Dice {dice:.2f}, correlation of its "
        f"structure {alike:.2f}): another patient?"
        for number, visit in enumerate(visits, start=1)
        for dice, alike in [
            [visit.registration.get(name, 1) for name in ("brain_dice", "structure_correlation")]
        ]
        if dice < USUAL_BRAIN_DICE or alike < SMALLEST_CORRELATION
    )
    return FollowUp(
        visits=tuple(visits),
        lesions=lesions,
        targets=targets,
        responses=tuple(respond(lesions, targets, index) for index in range(1, len(visits))),
        smallest_change_mm=smallest_change_mm,
        warnings=(*differences, *doubts),
    )


_GONE, _ABSENT = Observation(status="gone"), Observation(status="absent")


@dataclass(eq=False)
class _Track:
    """One lesion, and the visit (an index) and its numbers there when it was last seen."""

    seen: list[Observation]
    visit: int
    lesions: tuple[int, ...]

    @property
    def is_present(self) -> bool:
        """Whether it was there at the latest visit."""
        return bool(self.seen[-1].lesions)

    @property
    def is_merged(self) -> bool:
        """Whether it is now part of another one."""
        return any(each.status == "merged" for each in self.seen)

    def see(self, observation: Observation, visit: int) -> None:
        """Add the observation of the next visit."""
        if observation.lesions:
            observation = observation if self.is_present else replace(observation, status="recurred")
            self.visit, self.lesions = visit, observation.lesions
        self.seen.append(observation)


def _continue(tracks: list[_Track], visits: Sequence[Visit], now: int, smallest: float | None) -> None:
    """Add the observations of the visit `now` to every track, and tracks for its new lesions."""
    visit = visits[now]
    rows = [track for track in tracks if not track.is_merged]
    volumes = np.array([visits[row.visit].volumes[np.array(row.lesions) - 1].sum() for row in rows])
    parts, into = _relate(rows, volumes, visits, now)
    for row, columns in parts.items():
        merged = [each for each, owner in into.items() if owner == row]
        limit = _smallest_change(visits[rows[row].visit], visit) if smallest is None else smallest
        seen = _observe(visit, columns, volumes[[row, *merged]].sum(), limit)
        notes = [*(f"with lesion {tracks.index(rows[each]) + 1}" for each in merged), seen.note]
        rows[row].see(replace(seen, note=", ".join(filter(None, notes))), now)
    for row, owner in into.items():
        rows[row].see(Observation(status="merged", note=f"into lesion {tracks.index(rows[owner]) + 1}"), now)
    for track in tracks:
        if len(track.seen) <= now:
            track.see(_GONE if track.is_present else _ABSENT, now)
    for column in sorted(set(range(len(visit.records))).difference(*parts.values())):
        seen = replace(_observe(visit, [column]), status="new" if now else "first")
        tracks.append(_Track([*[_ABSENT] * now, seen], now, seen.lesions))


def _smallest_change(before: Visit, after: Visit) -> float:
    """Return the change of a diameter in mm from which a lesion is not stable, unless it is given."""
    larger = max(before.brain.grid.voxel_mm3, after.brain.grid.voxel_mm3)
    return STABLE_VOXELS * float(np.cbrt(larger))


def _relate(
    rows: Sequence[_Track], volumes: NDArray[np.float64], visits: Sequence[Visit], now: int
) -> tuple[dict[int, list[int]], dict[int, int]]:
    """Return the lesions (columns) of each track (row) at a visit, and the tracks that merged into others.

    The volumes are those of the tracks, in mm3, where they were last seen.
    """
    after = visits[now].volumes
    inside, contained, far = _compare(rows, visits, now)
    if not inside.size:
        return {}, {}
    common = (inside + contained) / 2
    overlap = np.minimum(common / np.minimum(volumes[:, None], after), 1)
    allowed = (common > 0) | (far <= SAME_PLACE_MM)
    cost = np.where(allowed, 1 - overlap + np.minimum(far / FAR_MM, 1), _FORBIDDEN)
    pairs = [(int(row), int(column)) for row, column in zip(*linear_sum_assignment(cost), strict=True)]
    owners = {column: row for row, column in pairs if allowed[row, column]}
    parts, into = {row: [column] for column, row in owners.items()}, {}
    for row, track in enumerate(rows):
        column = int(inside[row].argmax())
        is_within = inside[row, column] >= MOST_INSIDE * volumes[row]
        if row not in parts and track.is_present and is_within and column in owners:
            into[row] = owners[column]
    for column, volume in enumerate(after):
        row = int(contained[:, column].argmax())
        if column not in owners and row in parts and contained[row, column] >= MOST_INSIDE * volume:
            parts[row].append(column)
    return parts, into


def _compare(rows: Sequence[_Track], visits: Sequence[Visit], now: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return how tracks and the lesions of a visit lie to each other, each of shape (tracks, lesions).

    That is the volume in mm3 of the track in the lesion, that of the lesion in the track, and the distance of
    their centroids in mm; all by where the track was last seen.
    """
    visit = visits[now]
    shape = len(rows), len(visit.records)
    inside, contained, far = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for then in {row.visit for row in rows}:
        there, back = visits[then].inside(visit), visit.inside(visits[then])
        for index, row in enumerate(rows):
            if row.visit == then:
                chosen = np.array(row.lesions) - 1
                inside[index], contained[index] = there[chosen].sum(axis=0), back[:, chosen].sum(axis=1)
                weights = visits[then].volumes[chosen]
                centroid = np.average(visits[then].centroids[chosen], axis=0, weights=weights)
                far[index] = np.linalg.norm(visit.centroids - centroid, axis=1)
    return inside, contained, far


def _observe(
    visit: Visit, columns: Sequence[int], before: float | None = None, limit: float = 0
) -> Observation:
    """Return the observation of a lesion, in one part or several; its volume was `before` in mm3."""
    parts = sorted((visit.records[column] for column in columns), key=lambda record: record.number)
    volume = sum(part.volume_mm3 for part in parts)
    change = None if before is None else float(np.cbrt(6 * volume / np.pi) - np.cbrt(6 * before / np.pi))
    status: Status = "stable"
    if change is not None and abs(change) >= limit:
        status = "grown" if change > 0 else "shrunk"
    return Observation(
        status=status,
        lesions=tuple(part.number for part in parts),
        volume_mm3=volume,
        diameter_axial_mm=sum(part.diameter_axial_mm for part in parts),
        perpendicular_mm=parts[0].perpendicular_mm,
        axial_slices=visit.axial_slices(parts[0].number),
        change_mm=change,
        note=f"in {len(parts)} parts" if len(parts) > 1 else "",
    )


def choose_targets(first: Sequence[Observation]) -> tuple[int, ...]:
    """Return the indices of RANO-BM's target lesions among those of the first visit, the longest first."""
    measurable = [
        index
        for index, seen in enumerate(first)
        if at_least(seen.diameter_axial_mm, MEASURABLE_MM)
        and at_least(seen.perpendicular_mm, SHORT_AXIS_MM)
        and seen.axial_slices >= FEWEST_SLICES
    ]
    return tuple(sorted(measurable, key=lambda index: -first[index].diameter_axial_mm)[:MOST_TARGETS])


def respond(lesions: Sequence[Sequence[Observation]], targets: Sequence[int], index: int) -> ResponseAt:
    """Return the response at the visit `index`, 1 or later, by the rule `RANO_BM`."""
    diameters = np.array([[seen.diameter_axial_mm for seen in lesions[target]] for target in targets])
    sums = diameters.sum(axis=0) if targets else np.zeros(index + 1)
    then = int(sums[:index].argmin())
    first, smallest, now = float(sums[0]), float(sums[then]), float(sums[index])
    new, equivocal = _new_ones(lesions, index)
    longer = targets and at_least(diameters[:, index] - diameters[:, then], PROGRESSIVE_MM).any()
    rules: tuple[tuple[object, Response, str], ...] = (
        (new, "PD", f"new lesions, or lesions that recur after CR: {new}"),
        (longer and at_least(now, PROGRESSIVE * smallest), "PD", _percent(now, smallest, "its minimum")),
        (not any(seen[0].lesions for seen in lesions), "no lesions", "none at the first visit"),
        (not any(seen[index].lesions for seen in lesions), "CR", "no lesion is left"),
        (not targets, "non-CR/non-PD", "no target lesions"),
        (at_least(PARTIAL * first, now), "PR", _percent(now, first, "the first visit's")),
        (True, "SD", _percent(now, first, "the first visit's")),
    )
    response, reason = next((response, reason) for holds, response, reason in rules if holds)
    if equivocal:
        reason += f"; equivocal new lesions, of at most {EQUIVOCAL_MM:g} mm: {equivocal}"
    return ResponseAt(
        response=response, sum_mm=now, first_sum_mm=first, smallest_sum_mm=smallest, reason=reason
    )


def _new_ones(lesions: Sequence[Sequence[Observation]], index: int) -> tuple[int, int]:
    """Return how many lesions at a visit are new since the first, or recur after CR: sure and equivocal."""
    empty = [visit for visit in range(index) if not any(seen[visit].lesions for seen in lesions)]
    since = max(empty, default=0)
    later = [
        [each for each in seen[since + 1 : index + 1] if each.lesions]
        for seen in lesions
        if seen[index].lesions and (empty or not seen[0].lesions)
    ]
    sure = sum(len(found) > 1 or found[-1].diameter_axial_mm > EQUIVOCAL_MM for found in later)
    return sure, len(later) - sure


def _percent(value: float, reference: float, what: str) -> str:
    return f"target sum {value / reference:.0%} of {what}" if reference else ""


def write_changes(output: Path, found: FollowUp) -> None:
    """Write `changes.csv`, `.json`, `.png` and `.md` to a folder, which replaces an earlier one of ours.

    Raises:
        SGNetError: If the folder holds anything else, or cannot be written.
    """
    with output_folder(output) as folder:
        with (
            atomic_path(folder / CHANGES_CSV) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("lesion", "visit", "target", *Observation.__dataclass_fields__))
            for lesion, observations in enumerate(found.lesions, start=1):
                for visit, seen in enumerate(observations, start=1):
                    row = (lesion, visit, str(lesion - 1 in found.targets).lower(), *_cells(seen))
                    table.writerow([csv_cell(cell) for cell in row])
        write_json(folder / CHANGES_JSON, _as_json(found))
        _draw(found).savefig(folder / CHANGES_PNG, dpi=DPI)
        write_text(folder / CHANGES_MD, as_markdown(found))


def _cells(seen: Observation) -> list[object]:
    values = asdict(seen) | {"lesions": " ".join(map(str, seen.lesions))}
    return [
        "" if each is None else round(each, 3) if isinstance(each, float) else each
        for each in values.values()
    ]


def _as_json(found: FollowUp) -> dict[str, object]:
    """Return what `changes.json` says: no path, since it may name the patient."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "sgnet": __version__,
        "research_only": RESEARCH_ONLY,
        "visits": [
            {
                "sha256": {name: checksum_of(visit.folder / name) for name in (T1CE, MASK, LESIONS_JSON)},
                "world_map": visit.world_map.tolist(),
                "registration": dict(visit.registration),
            }
            for visit in found.visits
        ],
        "lesions": [
            {
                "lesion": number,
                "target": number - 1 in found.targets,
                "visits": [asdict(seen) for seen in lesion],
            }
            for number, lesion in enumerate(found.lesions, start=1)
        ],
        "responses": [
            {"visit": visit, **asdict(each)} for visit, each in enumerate(found.responses, start=2)
        ],
        "rules": {"matching": MATCHING, "response": RANO_BM, "smallest_change_mm": found.smallest_change_mm},
        "warnings": list(found.warnings),
    }


def as_markdown(found: FollowUp) -> str:
    """Return the tables of lesions and responses, and the rules, as Markdown."""
    visits = range(1, len(found.visits) + 1)
    lines = [
        *("# Follow-up of brain lesions", "", f"{RESEARCH_ONLY} SG-Net {__version__}.", ""),
        "Volume in mm3, longest axial diameter in mm, and what became of the lesion; T: target lesion.",
        *("", _row("Lesion", *(f"Visit {visit}" for visit in visits)), _row(*["---"] * (len(visits) + 1))),
    ]
    for index, lesion in enumerate(found.lesions):
        name = f"{index + 1}{' T' if index in found.targets else ''}"
        lines.append(_row(name, *map(_text, lesion)))
    totals = [sum(lesion[visit - 1].volume_mm3 for lesion in found.lesions) for visit in visits]
    lines += [_row("All", *(f"{total:.0f} mm3" for total in totals)), ""]
    for visit, each in enumerate(found.responses, start=2):
        lines.append(f"- Visit {visit}: **{each.response}**, {each.reason}; target sum {each.sum_mm:.1f} mm.")
    for visit, registered_visit in enumerate(found.visits[1:], start=2):
        dice, note = (registered_visit.registration[key] for key in ("brain_dice", "note"))
        lines.append(f"- Registration of visit {visit}: Dice of the brains {dice:.3f}{note and f', {note}'}.")
    lines += [f"- Warning: {warning}." for warning in found.warnings]
    return "\n".join([*lines, "", RANO_BM, "", MATCHING, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(seen: Observation) -> str:
    note = f" {seen.note}" if seen.note else ""
    if not seen.lesions:
        return {"absent": "–"}.get(seen.status, seen.status) + note
    return f"{seen.volume_mm3:.0f}, {seen.diameter_axial_mm:.1f}: {seen.status}{note}"


def _draw(found: FollowUp) -> "Figure":
    """Draw the volumes over the visits, and the target lesions' sum of diameters with the response."""
    figure, axes = new_figure(9, 4, axes=2, columns=2)
    volumes, sums = axes[0]
    visits = np.arange(1, len(found.visits) + 1)
    for index, lesion in enumerate(found.lesions):
        shown = [seen.volume_mm3 if seen.status not in ("absent", "merged") else np.nan for seen in lesion]
        colour = [channel / 255 for channel in lesion_colour(index + 1)]
        volumes.plot(visits, shown, marker="o", color=colour, label=f"{index + 1}", markeredgecolor=INK)
    largest = max((seen.volume_mm3 for lesion in found.lesions for seen in lesion), default=0)
    volumes.set_yscale("symlog", linthresh=10)
    volumes.set_ylim(0, 10 ** np.ceil(np.log10(max(largest, 10) * 1.2)))  # a power of ten has a tick
    volumes.set_title("Volume of each lesion, mm3", color=INK, fontsize=10)
    if found.lesions:
        volumes.legend(
            title="lesion",
            fontsize=7,
            ncols=1 + len(found.lesions) // 12,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    totals = [
        sum(found.lesions[target][visit - 1].diameter_axial_mm for target in found.targets)
        for visit in visits
    ]
    sums.plot(visits, totals, marker="o", color=INK)
    sums.set_ylim(0, 1.25 * max(*totals, 10))
    for visit, total, each in zip(visits[1:], totals[1:], found.responses, strict=True):
        sums.annotate(each.response, (visit, total), xytext=(0, 7), textcoords="offset points", ha="center")
    sums.set_title("Sum of target lesions' diameters, mm; RANO-BM", color=INK, fontsize=10)
    for each in (volumes, sums):
        each.set_xticks(visits)
        each.set_xlim(0.7, len(visits) + 0.3)
        each.set_xlabel("visit")
    figure.supxlabel(RESEARCH_ONLY, fontsize=8, color=INK)
    return figure
