"""Phantom patients: drawn, scanned, and written in the collection's layout."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from sgnet_nnunet.dataset.collection import Part, part_path
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import inside, make_folder
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.phantom.anatomy import draw_anatomy
from sgnet_nnunet.phantom.config import MOST_PATIENTS, Artefacts, PhantomConfig
from sgnet_nnunet.phantom.fields import MAJORITY
from sgnet_nnunet.phantom.pathology import add_pathology
from sgnet_nnunet.phantom.scanner import (
    ORIENTATIONS,
    acquire,
    add_stripping_errors,
    displaced,
    distort,
    draw_background,
    draw_flair_grid,
    render,
    sample,
    slice_thick,
)
from sgnet_nnunet.phantom.tumours import displace, draw_lesions, rasterise
from sgnet_nnunet.phantom.vessels import draw_distractors
from sgnet_nnunet.phantom.wide import WidePopulation

logger = logging.getLogger(__name__)

_DEFAULT = PhantomConfig()

_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))

_SEEN = 0.15
"""Fraction of a thick slice from which a core is drawn in it: small lesions fill no slice by half."""


def write_phantoms(
    root: Path,
    *,
    patients: int,
    seed: int,
    workers: int = 1,
    on_done: Callable[[str], object] = lambda _: None,
    config: PhantomConfig | WidePopulation = _DEFAULT,
) -> list[Path]:
    """Write phantom patients in the collection's layout.

    The same seed and config give the same files, byte for byte. Patient `i` is the same whatever
    the number of patients and of workers. An earlier run with the same seed is continued or replaced.

    `workers` is the number of processes; `on_done` is called with a patient's id after it is written, in
    the order they are finished. Returns the folders of the patients, in their own order.

    Raises:
        SGNetError: If a number is out of range, a worker is killed, or nilearn is not installed.
        InputFileError: If `root` is a file or holds anything but folders of these patients.
    """
    if not 1 <= patients <= MOST_PATIENTS:
        raise SGNetError(f"patients is {patients}; give 1 to {MOST_PATIENTS}")
    for name, value, least in (("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise SGNetError(f"{name} is {value}; give at least {least}")
    ids = [draw_ids(patient_rng(seed, index))[0] for index in range(patients)]
    _check_root(root, ids)
    make_folder(root)
    write = partial(_write_patient, root, seed=seed, config=config)
    folders: dict[int, Path] = {}
    for index, folder in run_jobs(write, range(patients), workers=workers):
        logger.debug("wrote phantom patient %s", folder)
        folders[index] = folder
        on_done(folder.name)
    return [folders[index] for index in range(patients)]


def _check_root(root: Path, ids: list[str]) -> None:
    """Refuse a folder that holds other files: phantoms must not be mixed with patients."""
    if root.exists() and (others := sorted({entry.name for entry in root.glob("[!.]*")} - set(ids))):
        remedy = "name an empty folder, or repeat the run with the same seed and at least as many patients"
        raise InputFileError(root, f"holds {others[0]!r}, which is not of this run", remedy)


def _write_patient(root: Path, index: int, *, seed: int, config: PhantomConfig | WidePopulation) -> Path:
    """Draw patient `index` and write its four files; return its folder."""
    rng = patient_rng(seed, index)
    patient, accession = draw_ids(rng)
    volumes = draw_patient(rng, config.draw(rng) if isinstance(config, WidePopulation) else config)
    folder = inside(root, patient)
    make_folder(folder)
    for part, volume in volumes.items():
        write_volume(part_path(root, patient, accession, part), volume)
    return folder


def patient_rng(seed: int, index: int) -> np.random.Generator:
    """Return the generator of patient `index`; it does not depend on the number of patients."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(index,)))


def draw_ids(rng: np.random.Generator) -> tuple[str, str]:
    """Draw the ids of a patient and of the only visit (`YG_`, 12 characters): the generator's first draw."""
    patient, accession = ("YG_" + "".join(rng.choice(_ALPHABET, 12)) for _ in range(2))
    return patient, accession


def draw_patient(rng: np.random.Generator, config: PhantomConfig) -> dict[Part, Volume]:
    """Draw the four volumes of one visit.

    Images are int16 and exactly 0 outside the brain; masks are uint8, 0 and 1. Images and masks
    of a sequence share one grid. The core, sampled onto the FLAIR grid, lies inside the whole tumour.
    """
    healthy = draw_anatomy(rng, config)
    drawn_lesions = draw_lesions(rng, healthy, config)
    anatomy = displace(healthy, drawn_lesions)
    lesions = rasterise(rng, anatomy, drawn_lesions, config)
    distractors = draw_distractors(rng, anatomy, config)
    distractors = add_pathology(rng, anatomy, distractors, lesions.whole, config.pathology)
    anatomy, distractors = add_stripping_errors(rng, anatomy, distractors, lesions.whole, config.artefacts)
    t1ce_signal = render(rng, "t1ce", anatomy, lesions, distractors, config)
    flair_signal = render(rng, "flair", anatomy, lesions, distractors, config)

    grid = draw_flair_grid(rng, anatomy.grid, config)
    core = lesions.core > MAJORITY
    whole = slice_thick(lesions.whole, anatomy.grid, grid) > MAJORITY
    whole |= slice_thick(lesions.core, anatomy.grid, grid) > _SEEN
    whole |= sample(core, anatomy.grid, grid, order=0) > 0
    brain = whole | (sample(anatomy.brain.astype(np.float32), anatomy.grid, grid, order=1) > MAJORITY)
    flair_signal = slice_thick(flair_signal, anatomy.grid, grid, order=3)
    t1ce_signal = ndimage.gaussian_filter(
        t1ce_signal, rng.uniform(*config.t1ce_blur) / np.array(anatomy.grid.spacing)
    )
    if config.artefacts != Artefacts():  # else it draws nothing: seeds keep their patients
        t1ce_signal = distort(rng, t1ce_signal, anatomy.grid, config.artefacts)
        flair_signal = distort(rng, flair_signal, grid, config.artefacts)
        grid = displaced(rng, grid, config.artefacts.displaced)
    t1ce, flair = (
        acquire(rng, *scene, noise=rng.uniform(*config.noise), bias=rng.uniform(*config.bias))
        for scene in ((t1ce_signal, anatomy.brain, anatomy.grid), (flair_signal, brain, grid))
    )
    volumes: dict[Part, Volume] = {}
    parts: tuple[tuple[Part, Part], ...] = (("t1ce_img", "core_seg"), ("flair_img", "whole_seg"))
    scans = ((t1ce, core, anatomy.grid), (flair, whole, grid))
    for (image, mask), (scan, label, cropped), codes in zip(
        parts, scans, rng.choice(ORIENTATIONS, 2), strict=True
    ):
        pads = draw_background(rng, scan > 0, cropped, config)
        affine = cropped.crop(-pads[:, 0], cropped.shape + pads[:, 1]).affine
        for part, data in ((image, scan), (mask, label.astype(np.uint8))):
            volumes[part] = Volume(np.pad(data, pads), affine).oriented(str(codes))
    return volumes
