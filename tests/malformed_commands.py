"""Malformed inputs of every command, for `cli/test_malformed_inputs.py`.

Each is a change of a folder of sound inputs, with the names that a message may use.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase as fnmatch
from functools import partial
from pathlib import Path

import malformed
import nibabel as nib
import numpy as np
import test_bounds as bounds
import test_dicom
import test_doors as doors
from dicom_series import FLAIR, Patient, write_classic

from sgnet_nnunet.errors import printable
from sgnet_nnunet.nifti import Volume, read_image, write_volume

MODEL = "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"
RAW, PREPROCESSED = "nnUNet_raw/Dataset501_Tiny", "nnUNet_preprocessed/Dataset501_Tiny"
CASE = "YG_P000_YG_A000"

COARSE = "coarse/SGNetTrainer__nnUNetPlans__3d_fullres"
"""The same model for voxels of 4 mm."""

_SEGMENT = f"-m {COARSE} -o OUT --register never -device cpu"
_COMPARE = "--models SGNetTrainer -f 0 --no-gates --time-cases 0 -o OUT -np 1"
LINES = {
    "convert": "convert collection -d 503 -np 1",
    "predict": f"predict -i images -o OUT -m {MODEL} -device cpu",
    "segment": f"segment --t1ce scans/t1ce.nii.gz --flair scans/flair.nii.gz {_SEGMENT}",
    "segment masked": "segment --t1ce scans/t1ce.nii.gz --flair scans/flair.nii.gz "
    f"--brain-mask scans/brain.nii.gz {_SEGMENT}",
    "segment table": f"segment patients.csv {_SEGMENT}",
    "segment point": f"segment --t1ce scans/t1ce.nii.gz --flair scans/flair.nii.gz "
    f"--operating-point point.json {_SEGMENT}",
    "segment DICOM": f"segment --t1ce dicom/t1ce --flair dicom/flair {_SEGMENT}",
    "segment zip": f"segment --t1ce dicom/t1ce.zip --flair dicom/flair {_SEGMENT}",
    "segment HD-BET": f"segment --t1ce scans/head.nii.gz --flair scans/flair.nii.gz "
    f"--hdbet-weights hdbet {_SEGMENT}",
    "follow": "follow visits/1 visits/2 -o OUT",
    "export": f"export {MODEL} -o OUT -f 0",
    "gates": f"gates {MODEL} -i images -o OUT",
    "gates labelled": f"gates {MODEL} -i images -l image_labels -o OUT",
    "evaluate": "evaluate predictions references -o OUT -np 1",
    "evaluate labelled": "evaluate predictions references -o OUT -np 1 --labels labels.json "
    "--patients cases.csv",
    "compare": f"compare {_COMPARE} --patients cases.csv",
    "tune": "tune -d 501 -f 0 1 -device cpu -o OUT/point.json --patients cases.csv",
    "phantom": "phantom OUT -n 1 -np 1",
    "demo": "demo OUT --epochs 1 --iters 1",
    "doctor": "doctor",
}

IMAGES = {
    "convert": ["collection/P0/A_t1ce_img.nii.gz", "collection/P0/A_flair_img.nii.gz"],
    "predict": ["images/case0_0000.nii.gz", "images/case0_0001.nii.gz"],
    "segment": ["scans/t1ce.nii.gz", "scans/flair.nii.gz"],
    "gates": ["images/case0_0000.nii.gz"],
    "tune": [f"{RAW}/imagesTr/{CASE}_0000.nii.gz"],
    "follow": ["visits/2/t1ce.nii.gz"],
}
MASKS = {
    "convert": ["collection/P0/A_whole_seg.nii.gz"],
    "segment masked": ["scans/brain.nii.gz"],
    "follow": ["visits/2/mask.nii.gz"],
    "gates labelled": ["image_labels/case0.nii.gz"],
    "evaluate": ["predictions/b.nii.gz", "references/b.nii.gz"],
    "compare": [f"{PREPROCESSED}/gt_segmentations/{CASE}.nii.gz", f"{MODEL}/fold_0/validation/{CASE}.nii.gz"],
    "tune": [f"{PREPROCESSED}/gt_segmentations/{CASE}.nii.gz"],
}
TABLES = {
    "segment table": "patients.csv",
    "evaluate labelled": "cases.csv",
    "compare": "cases.csv",
    "tune": "cases.csv",
}
OBJECTS = {
    "follow": ["visits/2/run.json", "visits/2/lesions.json"],
    "segment": [f"{COARSE}/plans.json", f"{COARSE}/dataset.json"],
    "segment point": ["point.json"],
    "evaluate labelled": ["labels.json"],
    "compare": [f"{MODEL}/dataset.json", f"{PREPROCESSED}/splits_final.json"],
    "tune": [f"{MODEL}/plans.json", f"{MODEL}/dataset.json", f"{PREPROCESSED}/splits_final.json"],
}
CHECKPOINTS = {
    command: f"{COARSE if command == 'segment' else MODEL}/fold_0/checkpoint_final.pth"
    for command in ("predict", "segment", "export", "gates", "tune")
}
INPUT_FOLDERS = {
    "convert": ["collection"],
    "predict": ["images", MODEL],
    "segment": ["scans/t1ce.nii.gz", COARSE],
    "segment DICOM": ["dicom/t1ce"],
    "segment HD-BET": ["hdbet"],
    "follow": ["visits/2"],
    "export": [MODEL],
    "gates": ["images", MODEL],
    "evaluate": ["predictions", "references"],
    "compare": [MODEL, PREPROCESSED],
    "tune": [MODEL, PREPROCESSED],
}
VARIABLES = {
    "nnUNet_raw": ("convert", "tune", "doctor"),
    "nnUNet_preprocessed": ("compare", "tune", "doctor"),
    "nnUNet_results": ("compare", "tune", "doctor"),
}
OUTPUTS = ("predict", "segment", "segment table", "follow", "export", "gates", "evaluate", "compare", "tune",
           "phantom", "demo")  # fmt: skip


@dataclass(frozen=True)
class Malformed(malformed.Damage):
    """An input of a command, its `kind`."""

    line: tuple[str, ...] = ()
    put: str = "out/put"

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"

    @property
    def arguments(self) -> list[str]:
        """The command line, whose output is `put`."""
        return [word.replace("OUT", self.put) for word in self.line or LINES[self.kind].split()]


OTHER_NAMES = {
    "convert": ("P0 A", "P0/A"),
    "segment table": ("a: ", "p: "),
    "follow": ("visits/",),
    "segment": ("T1ce", "FLAIR", "trainer os", "configuration 2d"),
    **dict.fromkeys(("predict", "export", "gates", "tune"), ("trainer os", "configuration 2d")),
}
"""How a command may name what is wrong, besides the file's own name."""


def of_file(command: str, path: str, name: str, change: Callable[[Path], object]) -> Malformed:
    file = Path(path)
    names = (file.name, file.name.removesuffix(".nii.gz"), *OTHER_NAMES.get(command, ()))
    return Malformed(
        command, f"{'/'.join(file.parts[-2:])} {name}", lambda place: change(place / path), names
    )


def rewritten(change: Callable[[np.ndarray], np.ndarray], path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


OF_MASKS: dict[str, Callable[[Path], object]] = {
    "unknown label": partial(rewritten, lambda mask: np.where(mask > 0, 7, 0).astype(np.uint8)),
    "fractions": partial(rewritten, lambda mask: mask * np.float32(0.3)),
    "negative": partial(rewritten, lambda mask: -mask.astype(np.int16)),
    "beyond 16 bits": partial(rewritten, lambda mask: mask.astype(np.float64) * 2**40),
}
TEXTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[1, 2]",
    "number": b"7",
    "open": b'{"a": ',
    "deep": b'{"a": ' * 100_000,
    "NUL": b"\x00" * 50,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "other": b'{"a": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "large": b" " * (65 << 20),
}
ROWS = {
    "empty": "",
    "one word": "patient",
    "other columns": "a,b\n1,2\n",
    "no rows": "patient,case,t1ce\n",
    "open quote": 'patient,case,t1ce\n"a,b\n',
    "NUL": "patient,case,t1ce\na\x00,b,c\n",
    "no such case": "patient,case,t1ce\na,absent,absent.nii.gz\n",
    "blank": "patient,case,t1ce\n,,\n",
    "twice": f"patient,case,t1ce\np,{CASE},scans/t1ce.nii.gz\nq,{CASE},x\np,b,scans/t1ce.nii.gz\n",
    "leads out": f"patient,case,t1ce\n../p,{CASE},scans/t1ce.nii.gz\n",
    "escape sequence": f"patient,case,t1ce\n\x1b[31mp,x{CASE},scans/t1ce.nii.gz\n",
}


def malformed_images() -> Iterator[Malformed]:
    """Yield the damages of all images and masks."""
    images = malformed.damages_of_images()
    for table, changes in ((IMAGES, images), (MASKS, images | OF_MASKS)):
        for command, paths in table.items():
            for path in paths:
                for name, change in changes.items():
                    yield of_file(command, path, name, change)


def malformed_checkpoints() -> Iterator[Malformed]:
    """Yield the damages of the models' weights, and of HD-BET's."""
    changes = malformed.damages_of_checkpoints()
    for command, path in CHECKPOINTS.items():
        for name, change in changes.items():
            yield of_file(command, path, name, change)
    for name in ("empty", "text", "half", "payload", "payload alone", *bounds.STRANGE):
        yield of_file("segment HD-BET", "hdbet/fold_all/checkpoint_final.pth", name, changes[name])


def malformed_tables() -> Iterator[Malformed]:
    """Yield what is wrong with CSV files."""
    contents = {name: text.encode() for name, text in ROWS.items()}
    contents |= {name: TEXTS[name] for name in ("not UTF-8", "UTF-16", "large")}
    for command, path in TABLES.items():
        for name, content in contents.items():
            yield of_file(command, path, name, lambda file, content=content: file.write_bytes(content))
        for name, make in bounds.STRANGE.items():
            yield of_file(command, path, name, partial(malformed.strange, make))


FIELDS = {
    "lesions.json": [
        *(("lesions",), ("format",), ("version",), ("lesions", 0), ("lesions", 0, "centroid_voxel")),
        *(("lesions", 0, "volume_mm3"), ("lesions", 0, "number"), ("lesions", 0, "kept")),
    ],
    "run.json": [("format",), ("version",), ("patient_code",), ("versions",), ("settings",), ("models",)],
    "labels.json": [("labels",), ("labels", "foreground")],
    "point.json": [("point",), ("tuned_for",), ("point", "threshold"), ("format",), ("version",)],
    "dataset.json": [("labels",), ("labels", "whole_tumor"), ("channel_names",), ("file_ending",)],
    "plans.json": [("configurations",), ("transpose_forward",), ("image_reader_writer",)],
}  # fmt: skip


def malformed_objects() -> Iterator[Malformed]:
    """Yield what is wrong with JSON files."""
    for command, paths in OBJECTS.items():
        for path in paths:
            yield from malformed_json(command, path)


def malformed_json(command: str, path: str) -> Iterator[Malformed]:
    """Yield texts that are no object of the right kind, and wrong fields."""
    for name, text in TEXTS.items():
        yield of_file(command, path, name, lambda file, text=text: file.write_bytes(text))
    for name, make in bounds.STRANGE.items():
        yield of_file(command, path, name, partial(malformed.strange, make))

    def write(place, value, file):
        file.write_text(json.dumps(doors.mutated(json.loads(file.read_text()), place, value)))

    for place in FIELDS.get(Path(path).name, ()):
        for value in doors.OTHERS.values():
            if value is not doors.DROP or isinstance(place[-1], str):
                yield of_file(command, path, doors.named(place, value), partial(write, place, value))
        numbers = doors.NUMBERS.values() if isinstance(place[-1], str) and "_mm3" in place[-1] else ()
        for value in numbers:
            yield of_file(command, path, doors.named(place, value), partial(write, place, value))


NAMES = ("a.nii.gz", "a_0000.nii.gz", "plans.json", "dataset.json", "run.json", "P0/A_t1ce_img.nii.gz")


def fill(write: Callable[[Path], object], path: Path) -> None:
    for name in NAMES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name)


STRANGE_FOLDERS: dict[str, Callable[[Path], object]] = {
    "absent": lambda _: None,
    "file": lambda path: path.write_text("x"),
    "empty folder": Path.mkdir,
    **{name: make for name, make in bounds.STRANGE.items() if name != "folder"},
    "null device": lambda path: path.symlink_to("/dev/null"),
    "folder of the system": lambda path: path.symlink_to("/proc/self"),
    "folders for files": partial(fill, Path.mkdir),
    "junk": partial(fill, lambda path: path.write_bytes(b"junk")),
}
TAKEN = (
    *("plans.json", "dataset.json", "predict_from_raw_data_args.json", "case0.nii.gz", "case0.png"),
    *("report.html", "mask.nii.gz", "run.json", "summary.csv", "changes.csv", "export.json", "point.json"),
    *("point.png", "logs", "p/run.json", "YG_1", "nnUNet_raw", "phantoms", "overlay.png"),
)
"""Names of files, or folders, that the commands write."""


def take(as_folders: bool, path: Path) -> None:
    for name in TAKEN:
        taken = path / name
        taken.parent.mkdir(parents=True, exist_ok=True)
        if as_folders:
            taken.mkdir()
            (taken / "x").touch()
        else:
            taken.write_text("x")


STRANGE_OUTPUTS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("x"),
    **{name: make for name, make in bounds.STRANGE.items() if name != "folder"},
    "full device": lambda path: path.symlink_to("/dev/full"),
    "folder of the kernel": lambda path: path.symlink_to("/sys/kernel"),
    "processes": lambda path: path.symlink_to("/proc/self"),
    "below a file": lambda path: path.parent.rmdir() or path.parent.write_text("x"),
    "folders for files": partial(take, True),
    "files for folders": partial(take, False),
}


def malformed_folders() -> Iterator[Malformed]:
    """Yield what is wrong with a folder that is read."""

    def change(make, path, place):
        shutil.rmtree(place / path) if (place / path).is_dir() else (place / path).unlink()
        make(place / path)

    for command, paths in INPUT_FOLDERS.items():
        for path in paths:
            for name, make in STRANGE_FOLDERS.items():
                culprits = (Path(path).name, *(OTHER_NAMES["convert"] if command == "convert" else ()))
                yield Malformed(command, f"{Path(path).name} {name}", partial(change, make, path), culprits)


def malformed_outputs() -> Iterator[Malformed]:
    """Yield what is wrong with a folder that is written to, or that one of nnU-Net's variables names."""

    def change(make, variable, place):
        if variable:
            os.environ[variable] = str(place / "out/put")
        make(place / "out/put")

    for command in OUTPUTS:
        for name, make in STRANGE_OUTPUTS.items():
            changed = "out" if name == "below a file" else "out/put"
            yield Malformed(command, f"output {name}", partial(change, make, ""), (changed,))
        long = f"out/{'x' * 300}"
        yield Malformed(command, "output long", lambda _: None, ("xxx",), put=long)
    for variable, commands in VARIABLES.items():
        for command in commands:
            for name, make in STRANGE_FOLDERS.items():
                yield Malformed(
                    command, f"{variable} {name}", partial(change, make, variable), (variable, "out/put")
                )


def malformed_names() -> Iterator[Malformed]:
    """Yield files of hostile names that are not there, or no scans."""
    names = ("[bold]", "[red]", "\x1b[31m", "a\nb", "\udcff", "\u202e", "=1+1", "%s{0}", "é", "x" * 256)
    lines = {
        "segment": f"segment --t1ce NAME --flair scans/flair.nii.gz -m {COARSE} -o OUT",
        "follow": "follow visits/1 NAME -o OUT",
        "predict": "predict -i images -m NAME -o OUT",
        "gates": "gates NAME -i images -o OUT",
        "evaluate": "evaluate predictions NAME -o OUT",
        "convert": "convert NAME -d 503",
        "tune": "tune -d 501 --patients NAME -o OUT/point.json",
    }
    for command, line in lines.items():
        for name in names:
            path = f"names/{name}"
            for kind in ("absent", "text"):

                def change(place, path=path, kind=kind):
                    (place / "names").mkdir()
                    if kind == "text" and len(path) < 255:
                        (place / path).write_text("x")

                arguments = tuple(path if word == "NAME" else word for word in line.split())
                yield Malformed(
                    command, f"{kind} {printable(name)}", change, (printable(path),), line=arguments
                )


def edited(edit: Callable[..., object], place: Path) -> None:
    test_dicom.change(sorted((place / "dicom/t1ce").iterdir()), edit)


def swapped(one: str, other: str, place: Path) -> None:
    (place / one).rename(place / "x")
    (place / other).rename(place / one)
    (place / "x").rename(place / other)


def enlarged(place: Path) -> None:
    for name in ("t1ce", "flair"):
        image = read_image(place / f"scans/{name}.nii.gz")
        write_volume(place / f"scans/{name}.nii.gz", Volume(image.data, image.affine * [[4], [4], [4], [1]]))


def other_patient(place: Path) -> None:
    shutil.rmtree(place / "dicom/flair")
    write_classic(
        place / "dicom/flair", read_image(place / "scans/flair.nii.gz"), FLAIR, patient=Patient(id="0815")
    )


def missing_slices(*which: int) -> Callable[[Path], None]:
    def change(place):
        files = sorted((place / "dicom/t1ce").iterdir())
        for index in which:
            files[index].unlink()

    return change


def zipped(change: Callable[[bytes], bytes], place: Path) -> None:
    path = place / "dicom/t1ce.zip"
    path.write_bytes(change(path.read_bytes()))


def malformed_patients() -> Iterator[Malformed]:
    """Yield scans that no patient's segmentation can be computed from."""
    for name, (edit, _) in test_dicom.BAD.items():
        yield Malformed("segment DICOM", name, partial(edited, edit), ("dicom/t1ce",))
    changes = {
        "different patients": (other_patient, "different patients"),
        "swapped series": (partial(swapped, "dicom/t1ce", "dicom/flair"), "is given as T1ce, but is FLAIR"),
        "a missing slice": (missing_slices(3), "dicom/t1ce"),
        "missing slices": (missing_slices(2, 3, 7), "dicom/t1ce"),
        "one slice": (missing_slices(*range(1, 30)), "dicom/t1ce"),
    }
    for name, (change, culprit) in changes.items():
        yield Malformed("segment DICOM", name, change, (culprit,))
    change = partial(swapped, "scans/t1ce.nii.gz", "scans/flair.nii.gz")
    yield Malformed("segment", "swapped scans", change, ("exchange T1ce and FLAIR",))
    yield Malformed("segment", "spacing far outside the training", enlarged, ("t1ce.nii.gz",))
    zips = {
        "truncated": lambda raw: raw[: len(raw) // 2],
        "damaged": lambda raw: raw[:2000] + bytes(400) + raw[2400:],
        "empty": lambda _: b"",
        "text": lambda _: b"no archive",
        "without a table": lambda raw: raw[:-30],
    }
    for name, change in zips.items():
        yield Malformed("segment zip", name, partial(zipped, change), ("t1ce.zip",))
    for name, make in bounds.STRANGE.items():
        if name != "folder":
            yield of_file("segment zip", "dicom/t1ce.zip", name, partial(malformed.strange, make))


INPUTS = [
    *malformed_images(),
    *malformed_checkpoints(),
    *malformed_objects(),
    *malformed_tables(),
    *malformed_folders(),
    *malformed_outputs(),
    *malformed_names(),
    *malformed_patients(),
]

HARMLESS = {
    "*.nii.gz not compressed": "its voxels are read",
    "convert: * other shape": "brought onto the T1ce's grid through the headers",
    "convert: * other spacing": "brought onto the T1ce's grid through the headers",
    "convert: * moved": "brought onto the T1ce's grid through the headers",
    "segment: scans/* other shape": "brought onto the T1ce's grid through the headers",
    "segment: scans/* other spacing": "brought onto the T1ce's grid through the headers",
    "segment: scans/* moved": "brought onto the T1ce's grid through the headers",
    "segment masked: * moved": "brought onto the T1ce's grid through the headers",
    "segment masked: * other *": "brought onto the T1ce's grid through the headers",
    "predict: images/* moved": "a warning, as nnU-Net goes on",
    "gates: images/* moved": "a warning, as nnU-Net goes on",
    "convert: * unknown label": "the tumour is everything above 0",
    "evaluate: * unknown label": "without dataset.json everything above 0 is evaluated",
    "segment masked: * unknown label": "the brain is everything above 0",
    "follow: * unknown label": "a lesion is everything above 0",
    "gates labelled: * unknown label": "everything above 0 is outlined",
    "* a bit of the stream": "of a small file, where no voxel depends on it: the checksum fits",
    **dict.fromkeys(
        [f"evaluate: references/* {name}" for name in (*bounds.STRANGE, "absent")],
        "a warning: its prediction is left out",
    ),
    "convert: P0/A_* absent": "the accession is left out, as is said",
    "segment table: patients.csv no such case": "the row failed, as is said and in summary.csv",
    "follow: 2/run.json versions=*": "not compared, or a warning",
    "follow: 2/run.json patient_code=None": "no code",
    "follow: 2/lesions.json lesions.0.kept=dropped": "kept by default",
    "evaluate: * blank": "an empty mask",
    "compare: * blank": "an empty mask",
    "tune: * blank": "an empty mask",
    "gates labelled: * blank": "an empty mask",
    "follow: 2/run.json *=dropped": "not compared, or a warning",
    "follow: 2/run.json settings=*": "a warning",
    "follow: 2/run.json models=*": "a warning",
    "compare: */dataset.json channel_names=*": "a warning: parameters cannot be counted",
    "compare: */dataset.json file_ending=*": "a warning: parameters cannot be counted",
    "doctor: * empty folder": "an empty folder is one of nnU-Net's",
    "doctor: * folders for files": "what is in nnU-Net's folders is not doctor's",
    "doctor: * junk": "what is in nnU-Net's folders is not doctor's",
    "predict: output files for folders": "files of an earlier run",
    "gates: output files for folders": "files of an earlier run",
    "tune: output files for folders": "files of an earlier run",
    "convert: nnUNet_raw *": "the folder is made, or holds other data sets",
}
"""Inputs that a command may accept, as patterns, and why."""


def is_harmless(each: Malformed) -> bool:
    return any(fnmatch(str(each), pattern) for pattern in HARMLESS)


EVERY_DAY = (
    "compare: SGNetTrainer__nnUNetPlans__3d_fullres/dataset.json labels=None",
    "compare: Dataset501_Tiny/splits_final.json list",
    "compare: cases.csv other columns",
    "compare: Dataset501_Tiny absent",
    "compare: output folders for files",
    f"compare: gt_segmentations/{CASE}.nii.gz unknown label",
    "tune: Dataset501_Tiny/splits_final.json pipe",
    "tune: cases.csv open quote",
    "tune: output folders for files",
    "tune: output below a file",
    f"tune: gt_segmentations/{CASE}.nii.gz unknown label",
    "demo: output file",
    "demo: output files for folders",
    "demo: output long",
    "doctor: nnUNet_raw absent",
    "doctor: nnUNet_results folder of the system",
    "predict: output folders for files",
    "gates: output folders for files",
    "export: output folders for files",
    "convert: nnUNet_raw file",
    "phantom: output pipe",
    "follow: 2/run.json other",
    "follow: 2/lesions.json lesions.0.volume_mm3=inf",
    "follow: 2/lesions.json lesions.0.volume_mm3=7.5",
    "follow: 2/mask.nii.gz bomb in a vast image",
    "follow: 2 junk",
    "follow: output folders for files",
    "follow: absent \\x1b[31m",
    "segment: scans/t1ce.nii.gz two volumes",
    "segment: scans/t1ce.nii.gz colours",
    "segment: scans/flair.nii.gz endless",
    "segment: scans/t1ce.nii.gz blank",
    "segment: spacing far outside the training",
    "segment: swapped scans",
    "segment: output folders for files",
    "segment: absent \\udcff",
    "segment masked: scans/brain.nii.gz fractions",
    "segment table: patients.csv twice",
    "segment table: output file",
    "segment HD-BET: fold_all/checkpoint_final.pth payload alone",
    "segment DICOM: different patients",
    "segment DICOM: swapped series",
    "segment DICOM: missing slices",
    "segment DICOM: no decoder",
    "segment DICOM: two patients",
    "segment zip: damaged",
)
"""Inputs of the tests that are not slow, as they are printed."""
SLOW = (f"tune: gt_segmentations/{CASE}.nii.gz unknown label", "segment DICOM: different patients")
