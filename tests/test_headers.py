"""Where a lesion is located, by every path from files with any valid header; invalid ones are all refused.

`SGNET_HEADER_DRAWS=2000 pytest tests/test_headers.py` draws 2,000 cases.
"""

import gzip
import itertools
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch

from sgnet_nnunet.dataset import records
from sgnet_nnunet.dataset.collection import Part, part_path, scan_collection
from sgnet_nnunet.dataset.convert import ConversionJob, ConversionOptions, convert_accession
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.measurement import measure_results
from sgnet_nnunet.evaluation.results import results_of_folders
from sgnet_nnunet.inference.nnunet_adapter import NnunetProcessing
from sgnet_nnunet.inference.plan import Plan, read_plan
from sgnet_nnunet.inference.predictor import Model, PlanProcessing, PredictionOptions, Predictor
from sgnet_nnunet.inference.trained_model import TrainedModel
from sgnet_nnunet.nifti import Grid, grid_of, read_channel, read_image

DRAWS = int(os.environ.get("SGNET_HEADER_DRAWS", "40"))
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 10)) for seed in range(DRAWS)]

NIBABEL_READERS = ("NibabelIO", "NibabelIOWithReorient")
ITK_READERS = ("SimpleITKIO", "SimpleITKIOWithReorient")
READERS = (*NIBABEL_READERS, *ITK_READERS)

DTYPES = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
MM_OF_UNITS = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
ORIENTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


RADIUS_MM = 6.0
"""Of the lesion, a ball: two of the largest voxels."""


@dataclass(frozen=True)
class Place:
    """A grid with a lesion on it, whose world is what the headers have to say.

    Attributes:
        affine: 4x4 matrix from voxel index to world mm.
        lesion: Whether a voxel is of the lesion, shape (x, y, z).
        is_sheared: Whether only a sform can say so.
        is_coded: Whether a header says it at all; without a code it is what nibabel takes it for.
    """

    affine: np.ndarray
    lesion: np.ndarray
    is_sheared: bool = False
    is_coded: bool = True

    @property
    def centre(self) -> np.ndarray:
        """The centre of the lesion's voxels in world mm."""
        return nib.affines.apply_affine(self.affine, np.argwhere(self.lesion).mean(axis=0))

    def voxels_off(self, found: np.ndarray, centre: np.ndarray | None = None) -> float:
        """Return how many voxels a point of the world is off another, by default the lesion's centre."""
        step = found - (self.centre if centre is None else centre)
        return float(np.abs(np.linalg.solve(self.affine[:3, :3], step)).max())


def draw_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return no rotation, a few degrees, or any."""
    quaternion = rng.normal(size=4) * rng.choice([0, 0.05, 1]) + [1, 0, 0, 0]
    return nib.quaternions.quat2mat(quaternion)


def draw_place(rng: np.random.Generator, centre: np.ndarray, *, sheared: bool, coded: bool = True) -> Place:
    """Return a grid around a lesion at `centre`, a point of the world in mm."""
    spacing = rng.uniform(0.7, 3, 3)
    shape = np.ceil(4 * RADIUS_MM / spacing).astype(int) + rng.integers(0, 3, 3)
    steps = draw_rotation(rng) @ ORIENTATIONS[rng.integers(48)] @ np.diag(spacing)
    if sheared:
        steps = steps @ (np.eye(3) + np.triu(rng.uniform(-0.2, 0.2, (3, 3)), 1))
    if not coded:
        steps = np.diag(spacing * [-1, 1, 1])
    affine = np.eye(4)
    affine[:3, :3] = steps
    middle = (shape - 1) / 2 + (rng.uniform(-1, 1, 3) if coded else 0)
    affine[:3, 3] = centre - steps @ middle
    voxels = np.stack(np.indices(shape), axis=-1)
    distance = np.linalg.norm(nib.affines.apply_affine(affine, voxels) - centre, axis=-1)
    return Place(affine, distance < RADIUS_MM, sheared, coded)


@dataclass
class Content:
    """What a NIfTI file consists of."""

    header: nib.Nifti1Header
    voxels: np.ndarray
    between: bytes = bytes(4)

    def write(self, path: Path) -> Path:
        raw = self.header.binaryblock + self.between + self.voxels.tobytes(order="F")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(raw, 1) if path.name.endswith(".gz") else raw)
        return path


def encode(rng: np.random.Generator, place: Place, *, is_mask: bool = False) -> Content:
    """Draw a file that says `place`."""
    kind = nib.Nifti2Header if rng.random() < 0.3 else nib.Nifti1Header
    header = kind(endianness="<>"[rng.integers(2)])
    dimensions = 3 + rng.choice([0, 0, 1, 2])
    shape = (*place.lesion.shape, 1, 1)[:dimensions]
    header["dim"] = [dimensions, *shape, *rng.choice([0, 1], 7 - dimensions)]
    header["intent_code"] = rng.choice([0, 1002, 2001])
    header.set_data_dtype(str(rng.choice(DTYPES)))
    voxels = _draw_voxels(rng, header, place.lesion, is_mask=is_mask)
    _draw_position(rng, header, place)
    between = bytes(4 + 16 * rng.integers(3))
    if rng.random() < 0.3:
        between = b"\1\0\0\0" + struct.pack(f"{header.endianness}ii", 32, 6) + b"a comment".ljust(24)
    header["vox_offset"] = kind.sizeof_hdr + len(between)
    return Content(header, voxels.astype(header.get_data_dtype()), between)


def _draw_voxels(
    rng: np.random.Generator, header: nib.Nifti1Header, lesion: np.ndarray, *, is_mask: bool
) -> np.ndarray:
    """Draw what is stored, and set how it is scaled; without a scale the image's outer voxels are 0."""
    unscaled = [(1, 0), (0, 0), (0, 7), (np.nan, np.nan)][rng.integers(4)]
    if is_mask:
        factor = 2 if rng.random() < 0.3 else 1
        header["scl_slope"], header["scl_inter"] = (0.5, 0) if factor == 2 else unscaled
        return lesion * factor
    voxels = np.where(lesion, 60, 20) + rng.integers(0, 4, lesion.shape)
    if header.get_data_dtype().kind == "f":
        voxels = voxels + rng.random(lesion.shape)
    is_scaled = rng.random() < 0.5
    slope = rng.uniform(0.1, 3)
    # Positive, since conversion puts 0 where an image ends.
    scaling = (slope, rng.uniform(-19, 10) * slope) if is_scaled else unscaled
    header["scl_slope"], header["scl_inter"] = scaling
    if not is_scaled:
        voxels[[0, -1]] = voxels[:, [0, -1]] = voxels[:, :, [0, -1]] = 0
    return voxels


def _draw_position(rng: np.random.Generator, header: nib.Nifti1Header, place: Place) -> None:
    """Say in one of many ways where the voxels are, with rubbish where nothing should look."""
    unit = rng.integers(4)
    header["xyzt_units"] = unit | rng.choice([0, 8])
    affine = place.affine.copy()
    affine[:3] /= MM_OF_UNITS[unit]
    header["pixdim"][1:4] = nib.affines.voxel_sizes(affine)
    if not place.is_coded:
        return
    ways = ["sform"] if place.is_sheared else ["sform", "qform", "both"]
    way = ways[rng.integers(len(ways))]
    rubbish = rng.random() < 0.5
    if way == "sform":
        header.set_sform(affine)
        if rubbish:
            header["pixdim"][:4] = [rng.choice([-1, 0, 1, 5]), *rng.uniform(0.2, 9, 3)]
            for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
                header[name] = rng.choice([0, 3, np.nan])
    else:
        header.set_qform(affine)
        if rubbish and header["pixdim"][0] == 1:
            header["pixdim"][0] = 0
    if way == "both":
        if rubbish:
            nudged = affine[:3, 3] + affine[:3, :3] @ rng.uniform(-0.3, 0.3, 3)
            header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = nudged
        header.set_sform(affine)
    elif way == "qform" and rubbish:
        header["srow_x"] = header["srow_z"] = rng.uniform(-9, 9, 4)
    header["sform_code"] = rng.integers(1, 6) if way in ("sform", "both") else 0
    header["qform_code"] = rng.integers(1, 6) if way in ("qform", "both") else 0


def bright(voxels: np.ndarray) -> np.ndarray:
    return voxels > (voxels.min() + voxels.max()) / 2


def centre_by_nibabel(path: Path) -> np.ndarray:
    image = nib.load(path)
    return nib.affines.apply_affine(image.affine, np.argwhere(bright(image.get_fdata()))).mean(axis=0)


def centre_by_itk(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    found = np.argwhere(bright(SimpleITK.GetArrayFromImage(image)))[:, ::-1]
    points = [image.TransformContinuousIndexToPhysicalPoint(index.astype(float).tolist()) for index in found]
    return np.mean(points, axis=0) * [-1, -1, 1]


class Threshold:
    """A network for which a voxel is of a lesion if it is bright in both channels."""

    channels = heads = 2

    def logits(self, image: np.ndarray) -> np.ndarray:
        low, high = (end(axis=(1, 2, 3), keepdims=True) for end in (image.min, image.max))
        score = ((image - low) / (high - low) - 0.5).min(axis=0)
        return np.stack([np.zeros_like(score), 10 * score])


RESAMPLING = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}


def draw_plan(rng: np.random.Generator, folder: Path, reader: str, ending: str) -> Plan:
    """Write a model's plan, and return it as it is read."""
    resampling = {
        f"resampling_fn_{what}{suffix}": value | {"is_seg": what == "seg"} if suffix else value
        for what in ("data", "seg", "probabilities")
        for suffix, value in (("", "resample_torch_fornnunet"), ("_kwargs", RESAMPLING))
    }
    settings = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 16, 16],
        "spacing": rng.uniform(0.8, 2, 3).tolist(),
        "normalization_schemes": ["PercentileTo01Normalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        **resampling,
    }
    forward = rng.permutation(3)
    plans = {
        "dataset_name": "Dataset501_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": reader,
        "transpose_forward": forward.tolist(),
        "transpose_backward": np.argsort(forward).tolist(),
        "configurations": {"3d_fullres": settings},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
    }
    description = {
        "channel_names": {"0": "T1ce", "1": "FLAIR"},
        "labels": {"background": 0, "whole_tumor": 1},
        "numTraining": 8,
        "file_ending": ending,
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    return read_plan(folder, "3d_fullres")


def open_predictors(plan: Plan, folder: Path) -> dict[str, Predictor]:
    """Return a predictor with the processing of exported models, and one with nnU-Net's own."""
    trained = TrainedModel(
        folder=folder,
        description=plan,
        configuration="3d_fullres",
        trainer="SGNetTrainer",
        checkpoints={},
        weights=(),
        network=torch.nn.Identity(),
        mirroring_axes=(),
    )
    return {
        name: Predictor(
            [
                Model(
                    folder=folder,
                    description=plan,
                    processing=processing,
                    build_engine=Threshold,
                    device="cpu",
                    find_provenance=lambda: None,
                )
            ],
            options=PredictionOptions(),
        )
        for name, processing in (("exported", PlanProcessing(plan)), ("trained", NnunetProcessing(trained)))
    }


def convert_files(folder: Path, files: dict[Part, Content], ending: str) -> tuple[Path, object]:
    """Convert an accession of these files; return the data set's folder and what the report says."""
    for part, content in files.items():
        content.write(part_path(folder / "collection", "P", "A", part, ending))
    raw = folder / "raw"
    for name in (Path(records.HIDDEN_FOLDER) / "cases", "imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    accession = scan_collection(folder / "collection")[0]
    return raw, convert_accession(ConversionJob(accession, raw, ConversionOptions()))


@pytest.mark.parametrize("seed", SEEDS)
def test_conversion_prediction_and_evaluation_agree_on_where_a_lesion_is(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    reader, ending = str(rng.choice(READERS)), str(rng.choice([".nii", ".nii.gz"]))
    coded = rng.random() < 0.9
    centre = rng.uniform(-100, 100, 3) if coded else np.zeros(3)
    # SimpleITK's images cannot hold a sheared grid.
    sheared = coded and reader in NIBABEL_READERS and rng.random() < 0.2
    place = draw_place(rng, centre, sheared=sheared, coded=coded)
    other = draw_place(rng, centre, sheared=coded and rng.random() < 0.2, coded=coded)

    raw, findings = convert_files(
        tmp_path,
        {
            "t1ce_img": encode(rng, place),
            "flair_img": encode(rng, other),
            "whole_seg": encode(rng, other, is_mask=True),
        },
        ending,
    )
    assert not isinstance(findings, InputFileError), findings
    assert any("left and right" in note for note in findings.notes) is not coded
    for name, of in {"imagesTr/P_A_0000": place, "imagesTr/P_A_0001": other, "labelsTr/P_A": other}.items():
        assert place.voxels_off(centre_by_nibabel(raw / f"{name}.nii.gz"), of.centre) < 0.5, name
        if not sheared:
            assert place.voxels_off(centre_by_itk(raw / f"{name}.nii.gz"), of.centre) < 0.5, name

    images, references = tmp_path / "images", tmp_path / "references"
    files = [encode(rng, place).write(images / f"case_000{channel}{ending}") for channel in range(2)]
    reference = encode(rng, place, is_mask=True).write(references / f"case{ending}")
    image, mask = (read_channel(path, reader=reader)[0] for path in (files[0], reference))
    np.testing.assert_array_equal(mask > 0, bright(image))
    plan = draw_plan(rng, tmp_path / "model", reader, ending)
    for name, predictor in open_predictors(plan, tmp_path / "model").items():
        masks = tmp_path / name
        assert predictor.predict_folder(images, masks) == 1
        path = masks / f"case{ending}"
        assert place.voxels_off(centre_by_nibabel(path)) < 0.5
        if not sheared:
            assert place.voxels_off(centre_by_itk(path)) < 0.5
        figures = measure_results(results_of_folders({name: masks}, references))
        assert figures.per_case["dice"].item() > 0.75
        lesion = figures.per_lesion.loc[0]
        assert lesion["status"] == "detected"
        assert place.voxels_off(lesion[["x_mm", "y_mm", "z_mm"]].to_numpy(float)) < 0.5
        volume = place.lesion.sum() * abs(np.linalg.det(place.affine[:3, :3]))
        assert lesion["volume_mm3"] == pytest.approx(volume, rel=1e-4)


def change_header(change: Callable[[nib.Nifti1Header], object]) -> Callable[[Content], object]:
    return lambda content: change(content.header)


def set_field(name: str, value: object, *, at: object = ...) -> Callable[[Content], object]:
    """Return a function that sets a field of the header, or some of its values."""

    def change(header: nib.Nifti1Header) -> None:
        header[name][at] = value

    return change_header(change)


def without_sform(name: str, value: object, *, at: object = ...) -> Callable[[Content], object]:
    """Return a function that sets a field that counts where there is no sform."""

    def change(content: Content) -> None:
        content.header["sform_code"] = 0
        set_field(name, value, at=at)(content)

    return change


def only_sform(name: str, value: object, *, at: object = ...) -> Callable[[Content], object]:
    def change(content: Content) -> None:
        content.header["qform_code"] = 0
        set_field(name, value, at=at)(content)

    return change


def turn_qform(content: Content) -> None:
    quarter = np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    content.header.set_qform(content.header.get_sform() @ quarter)


def move_qform(content: Content) -> None:
    content.header["qoffset_x"] += 0.7 * content.header["pixdim"][1:4].max()


def store(dtype: str, value: complex) -> Callable[[Content], object]:
    """Return a function that changes the type of the voxels, and the value of one."""

    def change(content: Content) -> None:
        content.header.set_data_dtype(dtype)
        content.voxels = content.voxels.astype(dtype)
        content.voxels[0, 0, 0] = value

    return change


def scale_too_far(content: Content) -> None:
    content.header["scl_slope"] = content.header["scl_inter"] = 3e38


def repeat(content: Content) -> None:
    content.voxels = np.stack([content.voxels, content.voxels], axis=-1)
    content.header.set_data_shape(content.voxels.shape)


INVALID = {
    "qform and sform a quarter turn apart": turn_qform,
    "qform and sform 0.7 voxels apart": move_qform,
    "unknown qform code": set_field("qform_code", 7),
    "unknown sform code": set_field("sform_code", -1),
    "qform without size of a voxel": without_sform("pixdim", 0, at=2),
    "qform with a negative size": without_sform("pixdim", -2, at=1),
    "qform with a size that is not a number": without_sform("pixdim", np.nan, at=3),
    "qform with another handedness than 1 or -1": without_sform("pixdim", -2, at=0),
    "qform that is no rotation": without_sform("quatern_b", 1.5),
    "qform that is not a number": without_sform("quatern_c", np.nan),
    "qform at no place": without_sform("qoffset_y", np.inf),
    "sform that is not a number": only_sform("srow_x", np.nan, at=1),
    "singular sform": only_sform("srow_y", 0),
    "micrometres that are none": only_sform("xyzt_units", 3),
    "far from everything": only_sform("srow_z", 1e6, at=3),
    "voxels that begin inside the header": set_field("vox_offset", 0),
    "negative length": set_field("dim", -5, at=1),
    "no voxels": set_field("dim", 0, at=2),
    "no dimensions": set_field("dim", 0, at=0),
    "nine dimensions": set_field("dim", 9, at=0),
    "two dimensions": set_field("dim", 2, at=0),
    "two volumes": repeat,
    "unknown type": set_field("datatype", 5),
    "complex voxels": store("c8", 1j),
    "colours": set_field("datatype", 128),
    "voxels beyond single precision": store("f8", 1e300),
    "voxels that are not numbers": store("f4", np.nan),
    "infinite voxels": store("f4", -np.inf),
    "scaled beyond single precision": scale_too_far,
    "scaled by an infinite slope": set_field("scl_slope", -np.inf),
    "scaled by an offset that is not a number": set_field("scl_inter", np.nan),
    "pair of .hdr and .img": set_field("magic", b"ni1"),
    "Analyze 7.5": set_field("magic", b""),
}


def flip_a_bit(raw: bytearray) -> bytearray:
    raw[len(raw) // 2] ^= 4
    return raw


DAMAGED = {
    "a bit of the stream": flip_a_bit,
    "a bit of the checksum": lambda raw: raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:],
    "no checksum": lambda raw: raw[:-8],
    "half a checksum": lambda raw: raw[:-4],
    "the end is missing": lambda raw: raw[: len(raw) // 2],
    "the last slice is missing": lambda raw: gzip.compress(gzip.decompress(raw)[:-300]),
    "something is behind": lambda raw: raw + b"rubbish",
    "empty": lambda _: b"",
}


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Content]:
    """Return a function that makes the same valid file of a patient, an image or a mask, each time."""
    steps = draw_rotation(np.random.default_rng(5)) @ np.diag([1, 1, 2.0])
    affine = np.eye(4)
    affine[:3, :3] = steps
    lesion = np.zeros((12, 11, 10), dtype=bool)
    lesion[4:8, 4:8, 3:7] = True

    def make(*, is_mask: bool = False) -> Content:
        rng = np.random.default_rng(0)
        header = nib.Nifti1Header()
        header.set_data_shape(lesion.shape)
        header.set_qform(affine, 1)
        header.set_sform(affine, 1)
        header["vox_offset"], header["xyzt_units"], header["scl_slope"], header["scl_inter"] = 352, 2, 1, 0
        header.set_data_dtype("i2")
        image = np.where(lesion, 60, 20) + rng.integers(0, 4, lesion.shape)
        return Content(header, (lesion if is_mask else image).astype("i2"))

    return make


Damage = Callable[[Content, Path], Path]
"""Damages a file, writes it to a path and returns the path."""

Refusals = dict[str, tuple[Path, object]]
"""For each path from a file to a result: the damaged file, and the error or whatever came of it."""


@pytest.fixture(scope="module")
def predictors(tmp_path_factory) -> dict[str, dict[str, Predictor]]:
    """Return both predictors of a model for each reader."""
    folder = tmp_path_factory.mktemp("models")
    return {
        reader: open_predictors(
            draw_plan(np.random.default_rng(0), folder / reader, reader, ".nii.gz"), folder / reader
        )
        for reader in READERS
    }


def refusals(
    folder: Path,
    make: Callable[..., Content],
    damage: Damage,
    predictors: dict[str, dict[str, Predictor]],
) -> Refusals:
    said: Refusals = {}

    def note(use: str, file: Path, result: Callable[[], object], *, traces: str = "") -> None:
        """Call `result`; nothing may be left of it in files if it is an error."""
        try:
            outcome = result()
        except InputFileError as caught:
            outcome = caught
        said[use] = file, outcome
        if isinstance(outcome, InputFileError) and traces:
            assert not [*folder.glob(traces)], use

    for part in ("t1ce_img", "flair_img", "whole_seg"):
        files = {each: make(is_mask=each.endswith("seg")) for each in ("t1ce_img", "flair_img", "whole_seg")}
        raw, _ = convert_files(folder / part, files, ".nii.gz")
        source = damage(files[part], part_path(folder / part / "collection", "P", "A", part, ".nii.gz"))
        job = ConversionJob(scan_collection(folder / part / "collection")[0], raw, ConversionOptions())
        note(f"convert {part}", source, partial(convert_accession, job), traces=f"{part}/raw/*Tr/*")
    for reader in READERS:
        own = folder / reader
        make().write(own / "images/case_0000.nii.gz")
        bad = damage(make(), own / "images/case_0001.nii.gz")
        for name, predictor in predictors[reader].items():
            predict = partial(predictor.predict_folder, own / "images", own / name)
            note(f"predict {name} {reader}", bad, predict, traces=f"{reader}/{name}/*.nii.gz")
        mask = damage(make(is_mask=True), own / "mask.nii.gz")
        note(f"tune {reader}", mask, partial(read_channel, mask, reader=reader))
    for bad_one, good in itertools.permutations(("prediction", "reference")):
        own = folder / f"bad {bad_one}"
        make(is_mask=True).write(own / good / "case.nii.gz")
        mask = damage(make(is_mask=True), own / bad_one / "case.nii.gz")
        results = results_of_folders(own / "prediction", own / "reference")
        note(f"evaluate {bad_one}", mask, partial(measure_results, results))
    return said


def check_refused_by_all(said: Refusals) -> None:
    for use, (file, outcome) in said.items():
        assert isinstance(outcome, InputFileError), use
        assert file.name in str(outcome), use
        assert "\n" not in str(outcome), use


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_header_is_refused_by_conversion_prediction_and_evaluation(
    tmp_path: Path, case, predictors, kind: str
):
    def damage(content: Content, path: Path) -> Path:
        INVALID[kind](content)
        return content.write(path)

    check_refused_by_all(refusals(tmp_path, case, damage, predictors))


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_stream_is_refused_by_conversion_prediction_and_evaluation(
    tmp_path: Path, case, predictors, kind: str
):
    def damage(content: Content, path: Path) -> Path:
        content.write(path).write_bytes(DAMAGED[kind](bytearray(path.read_bytes())))
        return path

    check_refused_by_all(refusals(tmp_path, case, damage, predictors))


def test_valid_files_are_refused_by_none(tmp_path: Path, case, predictors):
    def keep(content: Content, path: Path) -> Path:
        return content.write(path)

    said = refusals(tmp_path, case, keep, predictors)
    assert not [use for use, (_, outcome) in said.items() if isinstance(outcome, InputFileError)]


def reading_of(path: Path, reader: str) -> tuple[Grid, np.ndarray] | InputFileError:
    """Return the grid in the world and the voxels, shape (x, y, z), that a reader finds, or its error."""
    try:
        channel, properties = read_channel(path, reader=reader)
    except InputFileError as error:
        return error
    grid = grid_of(channel.shape, properties)
    if reader in ITK_READERS:
        grid = Grid(grid.shape, np.diag([-1, -1, 1, 1]) @ grid.affine)
    return grid, channel.T


# Places in the header of NIfTI-1: dim, datatype to scl_inter with pixdim, units, and qform_code to srow_z.
POSITIONS = [*range(40, 56), *range(70, 124), *range(252, 328)]


@pytest.mark.parametrize("seed", range(DRAWS))
def test_damaged_header_is_refused_by_every_reader_or_by_none(tmp_path: Path, seed: int):
    rng = np.random.default_rng([1, seed])
    raw = bytearray(
        encode(rng, draw_place(rng, np.zeros(3), sheared=False)).write(tmp_path / "a.nii").read_bytes()
    )
    for _ in range(rng.integers(1, 4)):
        position = POSITIONS[rng.integers(len(POSITIONS))]
        raw[position] = rng.choice([0, 1, 2, 3, 0x3F, 0x80, 0xFF, raw[position] ^ 1, raw[position] ^ 0x80])
    path = tmp_path / "a.nii"
    path.write_bytes(raw)
    found = {reader: reading_of(path, reader) for reader in READERS}
    refused = {reader for reader, reading in found.items() if isinstance(reading, InputFileError)}
    if refused == {*ITK_READERS}:
        # SimpleITK's images cannot hold a sheared grid.
        assert all("orthonormal" in str(found[reader]) for reader in refused)
        return
    assert refused in (set(), {*READERS})
    if refused:
        with pytest.raises(InputFileError):
            read_image(path)
        return
    (grid, voxels), of_itk, *turned = (
        found[reader] for reader in ("NibabelIO", "SimpleITKIO", *READERS[1::2])
    )
    assert of_itk[0].same_place_as(grid)
    np.testing.assert_allclose(of_itk[1], voxels, rtol=1e-5, atol=1e-6 * np.abs(voxels).max())
    np.testing.assert_allclose(turned[0][0].bounds(), turned[1][0].bounds(), atol=0.1)
    if voxels.min() < voxels.max():
        np.testing.assert_allclose(read_image(path).affine, grid.affine)


def test_reference_without_orientation_fits_a_prediction_on_the_grid_that_is_assumed(tmp_path: Path):
    place = draw_place(np.random.default_rng(0), np.zeros(3), sheared=False, coded=False)
    rng = np.random.default_rng(0)
    encode(rng, place, is_mask=True).write(tmp_path / "reference/case.nii")
    said = replace(place, is_coded=True)
    encode(rng, said, is_mask=True).write(tmp_path / "prediction/case.nii")
    results = results_of_folders(tmp_path / "prediction", tmp_path / "reference")
    assert measure_results(results).per_case["dice"].item() == 1
    mirrored = replace(said, affine=np.diag([-1, 1, 1, 1]) @ place.affine)
    encode(rng, mirrored, is_mask=True).write(tmp_path / "prediction/case.nii")
    with pytest.raises(InputFileError, match="off"):
        measure_results(results)
