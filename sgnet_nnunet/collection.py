"""File names of the TCIA collection Brain-Mets-Lung-MRI-Path-Segs (DOI 10.7937/k0sm-y874).

One accession (one MRI visit) of one patient is four files side by side:
`<root>/<PATIENT>/<ACCESSION>_<part>.nii.gz`, `part` being one of `PARTS`. The core was drawn
on T1ce, the whole tumour on FLAIR, each on the native grid of its image.
"""

from pathlib import Path
from typing import Literal, get_args

Part = Literal["t1ce_img", "flair_img", "core_seg", "whole_seg"]

PARTS: tuple[Part, ...] = get_args(Part)
SUFFIXES = (".nii.gz", ".nii")
"""TCIA ships `.nii.gz`; a widely used copy on Kaggle is plain `.nii`."""


def part_path(root: Path, patient: str, accession: str, part: Part, suffix: str = ".nii.gz") -> Path:
    """Return the path of one part of one accession."""
    return root / patient / f"{accession}_{part}{suffix}"
