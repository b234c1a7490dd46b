"""The TCIA collection Brain-Mets-Lung-MRI-Path-Segs (DOI 10.7937/k0sm-y874) on disk.

One accession (one MRI visit) of one patient is four files side by side:
`<root>/<PATIENT>/<ACCESSION>_<part>.nii.gz`, `part` being one of `PARTS`. The core was drawn
on T1ce, the whole tumour on FLAIR, each on the native grid of its image. TCIA ships `.nii.gz`; a widely
used copy on Kaggle is plain `.nii`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nnunet import NIFTI_SUFFIXES

Part = Literal["t1ce_img", "flair_img", "core_seg", "whole_seg"]

PARTS: tuple[Part, ...] = get_args(Part)
_FILE_NAME = re.compile(
    rf"(?P<accession>[^.].*)_(?P<part>{'|'.join(PARTS)})({'|'.join(map(re.escape, NIFTI_SUFFIXES))})",
    re.DOTALL,
)


@dataclass(frozen=True)
class Accession:
    """One MRI visit of one patient, by the names in its files' paths.

    Attributes:
        files: For each part that is there, its file, or two files where both `.nii` and `.nii.gz` exist.
    """

    patient: str
    name: str
    files: Mapping[Part, tuple[Path, ...]]

    @property
    def case(self) -> str:
        """Name of the nnU-Net case."""
        return f"{self.patient}_{self.name}"

    def missing(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """Return those of `parts` that have no file."""
        return tuple(part for part in parts if part not in self.files)

    def path(self, part: Part) -> Path:
        """Return the file of a part that is there; two of them are an InputFileError."""
        first, *others = self.files[part]
        if others:
            raise InputFileError(first, f"{others[0].name} is next to it", "keep one of the two")
        return first


def part_path(root: Path, patient: str, accession: str, part: Part, suffix: str = ".nii.gz") -> Path:
    """Return the path of one part of one accession."""
    return root / patient / f"{accession}_{part}{suffix}"


def scan_collection(root: Path) -> list[Accession]:
    """Return the accessions below `root`, sorted by patient and accession.

    Files and folders that are not named like a part (tables, histology slides) are ignored.

    Raises:
        SGNetError: `root` cannot be listed or holds no accession.
    """
    try:
        accessions = [
            accession
            for folder in sorted(root.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
            for accession in _scan_patient(folder)
        ]
    except OSError as error:
        problem = f"{error.filename or root}: cannot be listed ({error.strerror})"
        raise SGNetError(f"{problem}; give the folder of the collection's patient folders") from error
    if not accessions:
        remedy = "give the folder that holds <PATIENT>/<ACCESSION>_t1ce_img.nii.gz"
        raise SGNetError(f"{root}: no accession found; {remedy}")
    return accessions


def _scan_patient(folder: Path) -> list[Accession]:
    found: dict[str, dict[Part, tuple[Path, ...]]] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE_NAME.fullmatch(path.name):
            parts = found.setdefault(match["accession"], {})
            part = cast(Part, match["part"])
            parts[part] = (*parts.get(part, ()), path)
    return [Accession(folder.name, accession, parts) for accession, parts in sorted(found.items())]
