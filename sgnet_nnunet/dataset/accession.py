"""Convert one accession: from four volumes on their native grids to three on the T1ce grid."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.dataset.collection import Part
from sgnet_nnunet.dataset.resampling import resample_image, resample_mask
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.nifti import Mask, Volume, have_orientation, read_image, read_mask

if TYPE_CHECKING:
    from sgnet_nnunet.dataset.registration import RigidTransform

TargetName = Literal["whole", "core", "regions"]
Registration = Literal["none", "rigid"]

IMAGE_OF_MASK: Mapping[Part, Part] = {"core_seg": "t1ce_img", "whole_seg": "flair_img"}
"""The image each mask was drawn on."""

VOLUME_CHANGE_NOTED = 0.2
"""Share of a lesion's volume. Resampling changes less, except in the smallest lesions; truncation more."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A choice of what to segment.

    Attributes:
        masks: The collection's masks it needs next to both images, mapped to their label. Where masks
            overlap, the later one is written over the earlier one.
        description: The entries of dataset.json that say what the labels mean.
    """

    masks: Mapping[Part, int]
    description: Mapping[str, Any]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every file that one accession needs."""
        return ("t1ce_img", "flair_img", *self.masks)

    def label_map(self, masks: Mapping[Part, NDArray[np.bool_]]) -> NDArray[np.uint8]:
        """Return the labels, shape (x, y, z) as the masks', 0 being background."""
        labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
        for part, label in self.masks.items():
            labels[masks[part]] = label
        return labels


TARGETS: Mapping[TargetName, Target] = {
    "whole": Target(masks={"whole_seg": 1}, description={"labels": {"background": 0, "whole_tumor": 1}}),
    "core": Target(masks={"core_seg": 1}, description={"labels": {"background": 0, "tumor_core": 1}}),
    "regions": Target(
        masks={"whole_seg": 1, "core_seg": 2},
        description={
            "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
            "regions_class_order": [1, 2],
        },
    ),
}


@dataclass(frozen=True)
class Scans:
    """The files of one accession: both images and the masks that the target needs, on their native grids.

    Left and right are unknown if the files have no orientation.
    """

    paths: Mapping[Part, Path]
    t1ce: Volume
    flair: Volume
    masks: Mapping[Part, Mask]
    have_orientation: bool = True


@dataclass(frozen=True)
class Findings:
    """What the conversion report says about a used accession.

    Attributes:
        notes: What was unusual.
        mi_before: Mutual information of T1ce and FLAIR in nats as the affines place them; None
            without registration. `mi_after` is that after registration.
        lesion_mm3: Volume of each mask's foreground on the T1ce grid.
    """

    notes: tuple[str, ...] = ()
    mi_before: float | None = None
    mi_after: float | None = None
    lesion_mm3: Mapping[Part, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One accession as nnU-Net needs it: all on the T1ce grid, in the file's orientation."""

    t1ce: Volume
    flair: Volume
    labels: Volume
    findings: Findings


def read_scans(paths: Mapping[Part, Path]) -> Scans:
    """Read both images and any masks of one accession.

    Raises:
        InputFileError: A file is bad, has no orientation where another has one, or its grid does not
            overlap that of its image.
    """
    t1ce, flair = read_image(paths["t1ce_img"]), read_image(paths["flair_img"])
    masks = {part: read_mask(path) for part, path in paths.items() if part in IMAGE_OF_MASK}
    if full := next((paths[part] for part, mask in masks.items() if mask.volume.data.all()), None):
        raise InputFileError(full, "mask covers every voxel", "draw it again, or leave it out")
    have_one = have_orientation([*paths.values()])
    grids = {"t1ce_img": t1ce.grid, "flair_img": flair.grid}
    grids.update((part, mask.volume.grid) for part, mask in masks.items())
    for part, image in (("flair_img", "t1ce_img"), *((part, IMAGE_OF_MASK[part]) for part in masks)):
        if not grids[part].overlaps(grids[image]):
            problem = f"its grid does not overlap that of {paths[image].name}"
            remedy = "fix its affine, or check that both files are of one visit"
            raise InputFileError(paths[part], problem, remedy)
    return Scans(paths, t1ce, flair, masks, have_one)


def make_case(scans: Scans, target: Target, register: Registration) -> Case:
    """Bring one accession onto its T1ce grid.

    With `rigid`, FLAIR and the mask drawn on it get the same transform; each is resampled once.

    Raises:
        InputFileError: Nothing of FLAIR or of a mask falls onto the T1ce grid.
    """
    grid = scans.t1ce.grid
    transform = None
    if register == "rigid":
        # Importing SimpleITK takes longer than converting a case without it.
        from sgnet_nnunet.dataset.registration import register_rigid  # noqa: PLC0415

        transform = register_rigid(scans.t1ce, scans.flair)
    to_flair = transform.world_map if transform else None
    flair = resample_image(scans.flair, grid, world_map=to_flair)
    if not np.any(flair):
        remedy = "check the affines of both images"
        raise InputFileError(scans.paths["flair_img"], "is 0 all over the T1ce grid", remedy)
    masks: dict[Part, NDArray[np.bool_]] = {}
    for part, mask in scans.masks.items():
        follows_flair = IMAGE_OF_MASK[part] == "flair_img"
        masks[part] = resample_mask(mask.volume, grid, world_map=to_flair if follows_flair else None)
        if not masks[part].any():
            problem = "no voxel of the mask falls on the T1ce grid"
            raise InputFileError(scans.paths[part], problem, "check the affine of the mask")
    lesion_mm3 = {part: int(np.count_nonzero(mask)) * grid.voxel_mm3 for part, mask in masks.items()}
    labels = Volume(target.label_map(masks), grid.affine)
    findings = _findings(scans, transform, lesion_mm3)
    return Case(scans.t1ce, Volume(flair, grid.affine), labels, findings)


def _findings(scans: Scans, transform: "RigidTransform | None", lesion_mm3: Mapping[Part, float]) -> Findings:
    notes = [note for mask in scans.masks.values() for note in mask.notes]
    if not scans.have_orientation:
        notes.append("qform_code and sform_code are 0 in every file: left and right may be exchanged")
    for part, size in lesion_mm3.items():
        native = scans.masks[part].volume_mm3
        if abs(size - native) > VOLUME_CHANGE_NOTED * native:
            notes.append(f"{scans.paths[part].name}: {native:.1f} mm3 became {size:.1f} mm3 on the T1ce grid")
    if transform is None:
        return Findings(tuple(notes), lesion_mm3=lesion_mm3)
    if transform.note:
        notes.append(transform.note)
    return Findings(tuple(notes), transform.before, transform.after, lesion_mm3)
