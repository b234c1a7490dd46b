"""What every command says of malformed inputs: one line that names the culprit, status 1 to 3.

`SGNET_MALFORMED=all pytest -s tests/cli/test_malformed_inputs.py` tries all of them and prints the counts;
by default a few are drawn.
"""

import json
import logging
import os
import re
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import malformed_commands as corpus
import numpy as np
import pytest
from dicom_series import FLAIR, T1CE, Patient, write_classic, zip_folder
from heads import add_head, draw_brain
from malformed_commands import CASE, COARSE, LINES, MODEL, RAW, Malformed
from visits_of_phantoms import write_visit

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.dataset.registration import RigidTransform
from sgnet_nnunet.files import checksum_of
from sgnet_nnunet.inference.operating_point import combine_checksums
from sgnet_nnunet.nifti import Volume, read_image, write_volume
from sgnet_nnunet.patient import visits

DRAWS = os.environ.get("SGNET_MALFORMED", "40")
PATIENCE = 120
"""Seconds after which a command hangs, on a busy machine."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory, write_workplace):
    """Return a folder with sound inputs of every command."""
    folder = tmp_path_factory.mktemp("sound")
    write_workplace(folder, cases=4, folds=2, shape=(24, 22, 20), patients=2, image_shape=(24, 30, 28))
    shutil.copytree(folder / RAW / "labelsTr", folder / "image_labels")
    for name in ("predictions", "references", "image_labels"):
        (folder / name).mkdir(exist_ok=True)
    mask = read_image(folder / RAW / f"labelsTr/{CASE}.nii.gz")
    for name in "ab":
        for place in ("predictions", "references"):
            write_volume(folder / place / f"{name}.nii.gz", Volume(mask.data.astype(np.uint8), mask.affine))
    for case in ("case0", "case1"):
        image = read_image(folder / f"images/{case}_0000.nii.gz")
        labels = (image.data > np.median(image.data)).astype(np.uint8)
        write_volume(folder / f"image_labels/{case}.nii.gz", Volume(labels, image.affine))
    shutil.copytree(folder / MODEL, folder / COARSE, ignore=lambda *_: ["fold_1", "validation"])
    plans = json.loads((folder / COARSE / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["spacing"] = [4.0, 4.0, 4.0]
    (folder / COARSE / "plans.json").write_text(json.dumps(plans))
    (folder / "labels.json").write_text(json.dumps({"labels": {"background": 0, "foreground": 1}}))
    rows = [
        f"{path.name[:-7]},p{number}" for number, path in enumerate((folder / RAW / "labelsTr").iterdir())
    ]
    (folder / "cases.csv").write_text("\n".join(["case,patient", "a,x", "b,y", *rows, ""]))
    write_scans(folder)
    weights = combine_checksums([checksum_of(folder / COARSE / "fold_0/checkpoint_final.pth")])
    model = f"Dataset501_Tiny/{Path(COARSE).name}"
    provenance = {"model": model, "engine": "sparse", "folds": ["0"], "weights_sha256": weights}
    point = {"threshold": 0.4, "min_lesion_volume_mm3": 3.0}
    content = {"format": "sgnet operating point", "version": 3, "tuned_for": provenance, "point": point}
    (folder / "point.json").write_text(json.dumps(content))
    return folder


def write_scans(folder: Path) -> None:
    """Write a patient's scans as NIfTI and as DICOM, a head, HD-BET's weights and two visits."""
    rng = np.random.default_rng(0)
    (folder / "scans").mkdir()
    brain = draw_brain(rng, spacing=4.0)
    for name, volume in (brain | {"head": add_head(brain["t1ce"], rng)}).items():
        write_volume(folder / f"scans/{name}.nii.gz", volume)
    inside = Volume((brain["t1ce"].data > 0).astype(np.uint8), brain["t1ce"].affine)
    write_volume(folder / "scans/brain.nii.gz", inside)
    patient = Patient()
    for name, tags in {"t1ce": T1CE, "flair": FLAIR}.items():
        write_classic(folder / "dicom" / name, brain[name], tags, patient=patient)
    zip_folder(folder / "dicom/t1ce", folder / "dicom/t1ce.zip")
    (folder / "hdbet/fold_all").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(folder / MODEL / name, folder / "hdbet" / name)
    shutil.copy(folder / MODEL / "fold_0/checkpoint_final.pth", folder / "hdbet/fold_all")
    for visit, side in enumerate((6, 9), start=1):
        mask = np.zeros(brain["t1ce"].data.shape, dtype=bool)
        mask[12 : 12 + side, 15 : 15 + side, 10 : 10 + side] = True
        scan = Volume(brain["t1ce"].data.astype(np.float32), brain["t1ce"].affine)
        write_visit(folder / f"visits/{visit}", scan, mask, patient_code="a code")
    rows = ["patient,t1ce,flair", "p,scans/t1ce.nii.gz,scans/flair.nii.gz", ""]
    (folder / "patients.csv").write_text("\n".join(rows))


class Hang(BaseException):
    """A command that does not end."""


@pytest.fixture
def attempt(sound, tmp_path, monkeypatch, capsys):
    """Return a function that gives an input to its command, and returns the outcome and the output."""
    work = tmp_path / "work"

    def give_up(*_):
        raise Hang

    def run(each: Malformed) -> tuple[str, str]:
        shutil.rmtree(work, ignore_errors=True)
        without = () if each.kind in ("segment DICOM", "segment zip") else ("dicom",)
        shutil.copytree(sound, work, ignore=shutil.ignore_patterns(*without))
        (work / "out").mkdir()
        logging.getLogger().handlers.clear()
        with monkeypatch.context() as patch:
            patch.chdir(work)
            for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
                patch.setenv(name, str(work / name))
            patch.setattr(visits, "register_rigid", lambda *_: RigidTransform(np.eye(4), 0.5, 0.6))
            try:
                each.change(work)
            except Exception as error:
                return "not made", repr(error)
            before = listing(work / "out")
            capsys.readouterr()
            signal.signal(signal.SIGALRM, give_up)
            signal.alarm(PATIENCE)
            try:
                main(each.arguments)
                status: object = 0
            except SystemExit as ended:
                status = ended.code or 0
            except Hang:
                status = "hang"
            except BaseException as error:
                status = f"raised {error!r}"
            finally:
                signal.alarm(0)
        shown = capsys.readouterr()
        text = shown.out + shown.err
        written = listing(work / "out") - before - {"put"}
        ran = (work / "marker").exists()
        return "payload run" if ran else outcome(each, status, text, bool(written)), text

    return run


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.is_dir() else set()


def outcome(each: Malformed, status: object, text: str, written: bool) -> str:
    """Return `refused`, `warned` or `silent`, or what no command may do."""
    named = any(name in text for name in each.culprits)
    if not isinstance(status, int) or status not in {0, 1, 2, 3}:
        return str(status)
    if "traceback" in text.lower():
        return "traceback"
    if CONTROL.search(text):
        return "control character"
    if status == 0:
        return "warned" if named else "silent"
    if not named:
        return "unnamed"
    return "written" if written and whole(each) else "refused"


CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]")


def whole(each: Malformed) -> bool:
    """Return whether the command's output is there as a whole or not at all; a table has its summary."""
    commands = {"segment", "follow", "export", "evaluate", "compare", "tune"}
    return each.kind.split()[0] in commands and each.kind != "segment table"


def is_right(each: Malformed, said: str) -> bool:
    return said == "refused" or (said in {"silent", "warned"} and corpus.is_harmless(each))


def by_name(*names: str) -> list:
    every = {str(each): each for each in corpus.INPUTS}
    slow = [pytest.mark.slow]
    return [pytest.param(every[name], id=name, marks=slow * (name in corpus.SLOW)) for name in names]


@pytest.mark.parametrize("each", by_name(*corpus.EVERY_DAY))
def test_malformed_input_is_refused_in_one_line_that_names_it(attempt, each):
    said, text = attempt(each)
    assert said == "refused", text
    assert len([line for line in text.splitlines() if line.startswith("sgnet: ")]) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [name for name in LINES if name not in ("demo", "phantom", "segment HD-BET")]
)
def test_sound_inputs_are_accepted(attempt, command):
    assert attempt(Malformed(command, "sound", lambda _: None, ("?",)))[0] == "silent"


@pytest.mark.slow
def test_drawn_inputs_are_refused(attempt, capsys):
    number = len(corpus.INPUTS)
    draws = np.random.default_rng(0).permutation(number)[: number if DRAWS == "all" else int(DRAWS)]
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for each in (corpus.INPUTS[draw] for draw in draws):
        said, text = attempt(each)
        right = is_right(each, said)
        counts.setdefault(each.kind.split()[0], Counter())[said if right else f"WRONG: {said}"] += 1
        if not right:
            wrong.append(f"{each}: {said}: {text[-300:]!a}")
        if log := os.environ.get("SGNET_MALFORMED_LOG"):
            with Path(log).open("a") as file:
                file.write(f"{said} | {right} | {each} | {text[-400:]!a}\n")
    with capsys.disabled():
        total = sum(counts.values(), Counter())
        for command, row in ({"all commands": total} | counts).items():
            sys.stdout.write(
                f"\n{command}: {sum(row.values())}; " + ", ".join(f"{n} {key}" for key, n in row.items())
            )
    assert not wrong, "\n".join(wrong)
