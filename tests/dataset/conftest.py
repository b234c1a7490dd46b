"""A small collection on disk whose every file can be replaced."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.dataset import convert as convert_module
from sgnet_nnunet.dataset.collection import PARTS, Part, part_path
from sgnet_nnunet.dataset.convert import ConversionResult

T1CE_SHAPE = (20, 18, 12)
T1CE_AFFINE = np.array([[-1.0, 0, 0, 10], [0, -1.0, 0, 9], [0, 0, 2.0, -12], [0, 0, 0, 1]])
FLAIR_SHAPE = (12, 10, 6)
FLAIR_AFFINE = np.array([[2.0, 0, 0, -11], [0, 2.0, 0, -9], [0, 0, 4.0, -11], [0, 0, 0, 1]])


@dataclass(frozen=True)
class MiniCollection:
    """Accessions of the collection's layout, T1ce in LPS, FLAIR thick-sliced in RAS."""

    root: Path

    def add(
        self, patient: str, accession: str, *, parts: Iterable[Part] = PARTS, suffix: str = ".nii.gz"
    ) -> None:
        rng = np.random.default_rng(list(f"{patient}{accession}".encode()))
        for part in PARTS:
            on_t1ce = part in {"t1ce_img", "core_seg"}
            shape, affine = (T1CE_SHAPE, T1CE_AFFINE) if on_t1ce else (FLAIR_SHAPE, FLAIR_AFFINE)
            data = rng.integers(100, 1000, shape).astype(np.int16)
            if part.endswith("seg"):
                data = np.zeros(shape, np.uint8)
                data[tuple(slice(length // 3, 2 * length // 3) for length in shape)] = 1
            if part in parts:
                self.write(patient, accession, part, data, affine, suffix=suffix)

    def add_patients(self, count: int) -> None:
        for number in range(count):
            self.add(f"P{number:02d}", f"A{number:02d}")

    def write(
        self,
        patient: str,
        accession: str,
        part: Part,
        data: np.ndarray,
        affine: np.ndarray,
        *,
        suffix: str = ".nii.gz",
    ) -> Path:
        path = part_path(self.root, patient, accession, part, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, affine), path)
        return path

    def path(self, patient: str, accession: str, part: Part) -> Path:
        return part_path(self.root, patient, accession, part)


@pytest.fixture
def collection(tmp_path: Path) -> MiniCollection:
    root = tmp_path / "collection"
    root.mkdir()
    return MiniCollection(root)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def convert(collection: MiniCollection, raw: Path) -> Callable[..., ConversionResult]:
    """Return a function that converts the collection in this process, with the given options."""

    def run(*, root: Path = collection.root, **options) -> ConversionResult:
        return convert_module.convert(root, raw, **{"workers": 1, **options})

    return run


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that reads every file of a folder, hidden ones too, but for the lock."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "lock"
        }

    return read


@pytest.fixture
def accepted_by_nnunet(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], bool]:
    """Return nnU-Net's own check of a data set; its processes become threads, which start at once."""
    # torch, behind it, takes seconds to import.
    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet  # noqa: PLC0415

    threads = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(nnunet, "multiprocessing", threads)

    def verify(folder: Path) -> bool:
        nnunet.verify_dataset_integrity(str(folder), num_processes=1)
        return True

    return verify


@pytest.fixture(scope="session")
def real_data() -> Path:
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SGNET_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}: set SGNET_REAL_DATA to the folder that holds them")
    return folder
