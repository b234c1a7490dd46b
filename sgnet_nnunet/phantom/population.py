"""Phantom patients on disk, in the collection's layout."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sgnet_nnunet.dataset.collection import part_path
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.phantom.config import PhantomConfig

logger = logging.getLogger(__name__)

_DEFAULT = PhantomConfig()


def write_phantoms(
    root: Path,
    *,
    patients: int,
    seed: int,
    workers: int = 1,
    on_done: Callable[[str], object] = lambda _: None,
    config: PhantomConfig = _DEFAULT,
) -> list[Path]:
    """Write phantom patients in the collection's layout.

    The same seed and config give the same files, byte for byte. Patient `i` is the same whatever
    the number of patients and of workers. An earlier run with the same seed is continued or replaced.

    Args:
        root: Folder to write to; made if missing.
        patients: Number of patients, at least 1.
        seed: Seed of all draws, at least 0.
        workers: Number of processes, at least 1.
        on_done: Called with a patient's id after it is written, in the order they are finished.
        config: Population to draw from.

    Returns:
        The folders of the patients, in order.

    Raises:
        SGNetError: If a number is too small, a worker is killed, or nilearn is not installed.
        InputFileError: If `root` is a file or holds anything but folders of these patients.
    """
    from sgnet_nnunet.phantom.patient import draw_ids, patient_rng  # noqa: PLC0415 - keeps the package light

    for name, value, least in (("patients", patients, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise SGNetError(f"{name} is {value}; give at least {least}")
    ids = [draw_ids(patient_rng(seed, index))[0] for index in range(patients)]
    _check_root(root, ids)
    root.mkdir(parents=True, exist_ok=True)
    write = partial(_write_patient, root, seed=seed, config=config)
    folders: dict[int, Path] = {}
    for index, folder in run_jobs(write, range(patients), workers=workers):
        logger.debug("wrote phantom patient %s", folder)
        folders[index] = folder
        on_done(folder.name)
    return [folders[index] for index in range(patients)]


def _check_root(root: Path, ids: list[str]) -> None:
    """Refuse a folder that holds other files: phantoms and patients must never mix."""
    if root.exists() and not root.is_dir():
        raise InputFileError(root, "not a folder", "name a folder to write phantoms to")
    if root.exists() and (others := sorted({entry.name for entry in root.iterdir()} - set(ids))):
        remedy = "name an empty folder, or repeat the run with the same seed and at least as many patients"
        raise InputFileError(root, f"holds {others[0]!r}, which is not of this run", remedy)


def _write_patient(root: Path, index: int, *, seed: int, config: PhantomConfig) -> Path:
    """Draw patient `index` and write its four files; return its folder."""
    from sgnet_nnunet.nifti import write_volume  # noqa: PLC0415
    from sgnet_nnunet.phantom.patient import draw_ids, draw_patient, patient_rng  # noqa: PLC0415

    rng = patient_rng(seed, index)
    patient, accession = draw_ids(rng)
    volumes = draw_patient(rng, config)
    folder = root / patient
    folder.mkdir(exist_ok=True)
    for part, volume in volumes.items():
        write_volume(part_path(root, patient, accession, part), volume)
    return folder
