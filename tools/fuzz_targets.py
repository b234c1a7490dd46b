"""The readers of files, as functions of bytes: what `tools/fuzz.py` and the tests feed with damaged files.

A target writes the bytes to a file of a folder and reads it. The reader may return, or raise an SGNetError
in one line that names the file; anything else is a defect.
"""

import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.dataset.records import read_record
from sgnet_nnunet.dataset.splits import patients_of
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import read_probabilities
from sgnet_nnunet.inference.exported import read_export
from sgnet_nnunet.inference.operating_point import read_operating_point
from sgnet_nnunet.inference.plan import configuration_of, read_description, read_plan
from sgnet_nnunet.inference.trust import check_names, read_checkpoint
from sgnet_nnunet.nifti import have_orientation, read_channel, read_image, read_labels, read_mask
from sgnet_nnunet.nnunet import find_cases, find_masks, validation_cases

LONGEST_MESSAGE = 2000
MODEL = ("plans.json", "dataset.json")

PLANS = {
    "dataset_name": "Dataset501_Tiny",
    "image_reader_writer": "NibabelIOWithReorient",
    "label_manager": "LabelManager",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "percentile_99_5": 2.0}},
    "configurations": {
        "base": {
            "data_identifier": "plans_3d",
            "preprocessor_name": "DefaultPreprocessor",
            "spacing": [1.0, 1.0, 1.0],
            "patch_size": [32, 32, 32],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [True],
            "resampling_fn_data": "resample_torch_fornnunet",
            "resampling_fn_probabilities": "resample_torch_fornnunet",
            "resampling_fn_data_kwargs": {"is_seg": False, "force_separate_z": False},
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
        },
        "3d_fullres": {
            "inherits_from": "base",
            "architecture": {
                "network_class_name": "sgnet_nnunet.networks.sgnet.SGNet",
                "arch_kwargs": {"features_per_stage": [4, 8], "gate_kwargs": {"groups": 2}},
                "_kw_requires_import": [],
            },
        },
    },
}
DATASET = {
    "channel_names": {"0": "T1ce"},
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
    "regions_class_order": [1, 2],
    "file_ending": ".nii.gz",
}
POINT = {
    "format": "sgnet operating point",
    "version": 3,
    "point": {"threshold": 0.4, "min_lesion_volume_mm3": 3.0},
    "tuned_for": {"model": "m", "engine": "sparse", "folds": ["0"], "weights_sha256": "x"},
}
EXPORT = {
    "format": "sgnet export",
    "version": 1,
    "model": "Dataset501_Tiny/m",
    "configuration": "3d_fullres",
    "background_head": True,
    "mirroring_axes": [0, 1],
    "folds": {
        "0": {
            "channels": 1,
            "heads": 2,
            "features": [4, 8],
            "gates": [{"level": 0, "threshold": 0.5, "score_threshold": 0.0, "dilation": 1, "nested": True}],
            "background": [0.0, -8.0],
        }
    },
}
RECORD = {
    "sources": {"t1ce_img": "a" * 64, "core_seg": "b" * 64},
    "files": {"imagesTr/case_0000.nii.gz": "c" * 64, "labelsTr/case.nii.gz": ""},
    "findings": {"notes": ["a note"], "mi_before": 0.5, "mi_after": None, "lesion_mm3": {"core_seg": 12.5}},
}
SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]
TABLE = 'case,patient,site\na,P1,x\nb,P1,"y, z"\nc,P2,\n'
NAMES = "P1/A1_t1ce_img.nii.gz\nP1/A1_core_seg.nii\nimages/a_0000.nii.gz\nimages/a_0001.nii.gz\nimages/b.nii"


@dataclass(frozen=True)
class Target:
    """A reader of bytes.

    Attributes:
        read: Writes bytes below a folder and reads them; returns nothing.
        seeds: Files that the reader accepts, as contents.
        named: What an error must contain, besides the folder.
    """

    read: Callable[[Path, bytes], object]
    seeds: tuple[bytes, ...]
    named: tuple[str, ...]

    def check(self, folder: Path, content: bytes) -> bool:
        """Return whether the content was accepted; raise whatever is not an SGNetError of one good line."""
        try:
            self.read(folder, content)
        except SGNetError as error:
            message = str(error)
            found = any(name in message for name in self.named)
            if not found or "\n" in message or len(message) > LONGEST_MESSAGE:
                raise AssertionError(f"a message without the file, or too long: {message[:500]!r}") from error
            return False
        return True


def _written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _accepted_by_any(*readers: Callable[[], object]) -> None:
    """Call all readers; raise the last error if none returned."""
    accepted, last = False, SGNetError()
    for reader in readers:
        try:
            reader()
            accepted = True
        except SGNetError as error:  # noqa: PERF203
            last = error
    if not accepted:
        raise last


def _nifti(name: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> None:
        path = _written(folder, name, content)
        _accepted_by_any(
            lambda: read_image(path),
            lambda: read_mask(path),
            lambda: read_labels(path),
            lambda: have_orientation([path]),
            lambda: read_channel(path, reader="NibabelIOWithReorient"),
        )

    return read


def _by_itk(name: str) -> Callable[[Path, bytes], object]:
    return lambda folder, content: read_channel(_written(folder, name, content), reader="SimpleITKIO")


def _read_model(folder: Path, *, plans: bytes, dataset: bytes) -> None:
    path = _written(folder, "plans.json", plans)
    _written(folder, "dataset.json", dataset)
    description = read_description(folder)
    read_plan(folder, "3d_fullres")
    check_names(path, description.plans, configuration_of(path, description.plans, "3d_fullres"))


def _splits(folder: Path, content: bytes) -> None:
    validation_cases(_written(folder, "splits_final.json", content), ["0", "1"], ["a"])


def _record(folder: Path, content: bytes) -> None:
    _written(folder, ".sgnet_conversion/cases/case.json", content)
    read_record(folder, "case")


def _checkpoint(folder: Path, content: bytes) -> None:
    path = folder / "checkpoint_final.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in _CHECKPOINT.items():
            archive.writestr(name, content if name.endswith("data.pkl") else data)
    read_checkpoint(path)


def _names(folder: Path, content: bytes) -> None:
    root = folder / "names"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for line in content.split(b"\n")[:20]:
        parts = [part[:80] for part in line.split(b"/") if part.strip(b".") and b"\0" not in part][:3]
        if parts:
            path = Path(os.fsdecode(os.path.join(os.fsencode(root), *parts)))  # noqa: PTH118 - bytes
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except OSError:  # the name of a folder and of a file
                continue
    _accepted_by_any(
        lambda: scan_collection(root),
        lambda: find_cases(root / "images", file_ending=".nii.gz", channels=2),
        lambda: find_masks(root / "images"),
    )


def _nifti_seeds() -> tuple[bytes, ...]:
    voxels = np.arange(60).reshape(3, 4, 5) % 3
    images = [
        nib.Nifti1Image(voxels.astype(kind), np.diag([1.0, 1.0, 2.0, 1.0])) for kind in ("u1", "<i2", "<f4")
    ]
    images[1].header.set_slope_inter(2, 1)
    images[1].header.set_xyzt_units("mm")
    images.append(nib.Nifti2Image(voxels.astype("<i4"), np.eye(4)))
    return tuple(image.to_bytes() for image in images)


def _itk_seeds() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
        "ElementSpacing = 1 1 2\nDimSize = 3 2 2\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    nrrd = (
        "NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 3 2 2\n"
        "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
        "encoding: raw\nspace origin: (0,0,0)\n\n"
    )
    voxels = bytes(range(12))
    return (meta.encode() + voxels,), (nrrd.encode() + voxels,)


def _checkpoint_files() -> dict[str, bytes]:
    content = {
        "trainer_name": "SGNetTrainer",
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "network_weights": {"head.weight": torch.ones(2, 3), "head.bias": torch.zeros(2)},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "logging": {"ema_fg_dice": [np.float32(0.5), np.float64(0.25)]},
        "_best_ema": np.float32(0.5),
    }
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, probabilities=np.full((2, 2, 2, 2), 0.5, np.float16))
    return file.getvalue()


_CHECKPOINT = _checkpoint_files()
_META, _NRRD = _itk_seeds()


def _json(content: object) -> tuple[bytes, ...]:
    return (json.dumps(content).encode(),)


TARGETS: Mapping[str, Target] = {
    "nifti": Target(_nifti("image.nii"), _nifti_seeds(), ("image.nii",)),
    "metaimage": Target(_by_itk("image.mha"), _META, ("image.mha",)),
    "nrrd": Target(_by_itk("image.nrrd"), _NRRD, ("image.nrrd",)),
    "plans": Target(
        lambda folder, content: _read_model(folder, plans=content, dataset=_json(DATASET)[0]),
        _json(PLANS),
        MODEL,
    ),
    "dataset": Target(
        lambda folder, content: _read_model(folder, plans=_json(PLANS)[0], dataset=content),
        _json(DATASET),
        MODEL,
    ),
    "splits": Target(_splits, _json(SPLITS), ("splits_final.json",)),
    "point": Target(
        lambda folder, content: read_operating_point(_written(folder, "point.json", content)),
        _json(POINT),
        ("point.json",),
    ),
    "export": Target(
        lambda folder, content: read_export(_written(folder, "export.json", content).parent),
        _json(EXPORT),
        ("export.json",),
    ),
    "record": Target(_record, _json(RECORD), ("case.json", ".nii.gz")),
    "table": Target(
        lambda folder, content: patients_of(["a"], table=_written(folder, "patients.csv", content)),
        (TABLE.encode(),),
        ("patients.csv",),
    ),
    "names": Target(_names, (NAMES.encode(),), ("names",)),
    "checkpoint": Target(
        _checkpoint,
        tuple(data for name, data in _CHECKPOINT.items() if name.endswith("data.pkl")),
        ("checkpoint_final.pth",),
    ),
    "probabilities": Target(
        lambda folder, content: read_probabilities(_written(folder, "case.npz", content), heads=2),
        (_npz(),),
        ("case.npz",),
    ),
}


def places(content: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401
    """Return the way to each value in nested lists and dictionaries, the outermost first."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [way, *(each for key in keys for each in places(content[key], (*way, key)))]


def replaced(content: Any, way: tuple[Any, ...], value: object) -> Any:  # noqa: ANN401
    """Return nested lists and dictionaries with another value at a place."""
    if not way:
        return value
    content = copy.deepcopy(content)
    inner = content
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return content
