"""`sgnet demo`: phantoms through conversion, planning, training and prediction, by nnU-Net's own commands."""

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.measurement import Scores, score
from sgnet_nnunet.nifti import read_image, read_labels
from sgnet_nnunet.nnunet import FOLDER_VARIABLES
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms
from sgnet_nnunet.report.figures import PREDICTION, PREDICTION_COLOUR, REFERENCE, REFERENCE_COLOUR
from sgnet_nnunet.report.slices import (
    Contour,
    Panel,
    draw_panels,
    fullest_slice,
    save_png,
    tile,
    to_grey,
    view_of,
)

LAST_LINES = 15


def run_command(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run a command of this Python environment and keep its output.

    Args:
        arguments: The command's name and its arguments.
        environment: Variables set on top of the process's own.
        log: File for standard output and error.
        on_line: Called with each line as it comes.

    Raises:
        SGNetError: If the command ends with a status other than 0; names the log and quotes its end.
    """
    command = [str(Path(sysconfig.get_path("scripts"), arguments[0])), *arguments[1:]]
    lines = []
    with (
        log.open("w", encoding="utf-8", buffering=1) as file,
        subprocess.Popen(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment),
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            lines.append(line)
            if on_line:
                on_line(line)
    if process.returncode:
        tail = "".join(lines[-LAST_LINES:])
        msg = f"`{' '.join(arguments)}` ended with status {process.returncode}; see {log}\n{tail}"
        raise SGNetError(msg)


@dataclass(frozen=True)
class CaseFiles:
    """The files of one predicted case.

    Attributes:
        name: Name of the case.
        t1ce: T1ce image.
        flair: FLAIR image on the same grid.
        reference: Reference mask on the same grid.
        prediction: Predicted mask on the same grid.
    """

    name: str
    t1ce: Path
    flair: Path
    reference: Path
    prediction: Path


def draw_overlay(cases: list[CaseFiles], path: Path) -> None:
    """Draw one row a case: T1ce, FLAIR, and FLAIR with the contours of the reference and the prediction.

    Each row shows the axial slice that holds most of the reference.

    Args:
        cases: The cases, one or more.
        path: PNG file to write.
    """
    rows = []
    for case in cases:
        t1ce, flair = (read_image(file).oriented() for file in (case.t1ce, case.flair))
        masks = [read_labels(file).oriented().data != 0 for file in (case.reference, case.prediction)]
        reference, prediction = (
            Contour(mask=mask, colour=colour, name=name)
            for mask, colour, name in zip(
                masks, (REFERENCE_COLOUR, PREDICTION_COLOUR), (REFERENCE, PREDICTION), strict=True
            )
        )
        k = fullest_slice(reference.mask, default=reference.mask.shape[2] // 2)
        scans = {"T1ce": to_grey(t1ce.data), "FLAIR": to_grey(flair.data)}
        panels = [Panel(grey=scan, k=k, title=f"{case.name}, {name}") for name, scan in scans.items()]
        panels += [
            Panel(grey=scans["FLAIR"], k=k, title="", contours=[contour])
            for contour in (reference, prediction)
        ]
        view = view_of(scans["T1ce"] > 0, spacing=t1ce.grid.spacing, pixels_per_mm=2)
        rows.append(draw_panels(panels, view))
    save_png(tile(rows, columns=1), path)


DATASET_ID = 501
POPULATION = PhantomConfig(
    extra_lesions_median=5, extra_lesions_sigma=0.4, diameter_median=13, diameter_sigma=0.35
)
"""More and larger tumours than the default's, so that minutes of training on a CPU suffice."""


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """How large the demo is.

    Attributes:
        patients: Phantom patients; the paper's split gives 7/10 to training and the last 2/10 to
            the test.
        seed: Seed of the phantoms.
        epochs: Training epochs.
        iters: Training batches an epoch.
        device: Device in nnU-Net's words: cpu, cuda or mps.
    """

    patients: int = 10
    seed: int = 0
    epochs: int = 10
    iters: int = 16
    device: str = "cpu"


@dataclass(frozen=True)
class DemoResult:
    """What the demo leaves behind.

    Attributes:
        scores: Scores of each held-out case.
        overlay: Picture of the held-out cases.
    """

    scores: dict[str, Scores]
    overlay: Path

    def rows(self) -> list[tuple[str, tuple[float, ...]]]:
        """Return a name and Dice, precision, recall and HD95 in mm, for each case and for their mean."""
        rows: dict[str, tuple[float, ...]] = {name: astuple(values) for name, values in self.scores.items()}
        return [*rows.items(), ("mean", tuple(np.mean(list(rows.values()), axis=0)))]


Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


def run_demo(folder: Path, plan: DemoPlan, *, report: Report) -> DemoResult:
    """Run the demo in `folder`, which ends up with the phantoms, nnU-Net's folders and the picture.

    Raises:
        SGNetError: If a stage fails.
    """
    logs = folder / "logs"
    for path in (logs, *(folder / name for name in FOLDER_VARIABLES)):
        path.mkdir(parents=True, exist_ok=True)
    workers = os.cpu_count() or 1
    environment = {name: str(folder / name) for name in FOLDER_VARIABLES} | {
        "SGNET_EPOCHS": str(plan.epochs),
        "SGNET_ITERS": str(plan.iters),
        "SGNET_VAL_ITERS": "1",
        "SGNET_MIRRORING": "0",
        "nnUNet_def_n_proc": str(workers),
        "nnUNet_n_proc_DA": str(workers),
    }
    collection = folder / "phantoms"

    done = _Counter("phantom patients", plan.patients, report)
    write_phantoms(
        collection,
        patients=plan.patients,
        seed=plan.seed,
        workers=workers,
        on_done=done,
        config=POPULATION,
    )

    done = _Counter("converting", plan.patients, report)
    raw = convert(
        collection,
        folder / "nnUNet_raw",
        dataset_id=DATASET_ID,
        split="paper",
        workers=workers,
        on_done=done,
    ).dataset_folder

    def command(stage: str, *arguments: str, steps: int = 1, step_pattern: str = r"$^") -> None:
        counter = _Counter(stage, steps, report)
        pattern = re.compile(step_pattern)
        run_command(
            arguments,
            environment=environment,
            log=logs / f"{arguments[0]}.log",
            on_line=lambda line: counter(line) if pattern.search(line) else None,
        )
        counter.finish()

    dataset, processes = str(DATASET_ID), str(workers)
    command(
        "planning, preprocessing",
        *("nnUNetv2_plan_and_preprocess", "-d", dataset, "-pl", "SGNetPlanner", "-c", "3d_fullres"),
        *("--verify_dataset_integrity", "-npfp", processes, "-np", processes),
    )
    command(
        "training",
        *("nnUNetv2_train", dataset, "3d_fullres", "0", "-tr", "SGNetTrainer", "-device", plan.device),
        steps=plan.epochs,
        step_pattern="Epoch time",
    )
    command(
        "predicting",
        *("nnUNetv2_predict", "-d", dataset, "-i", str(raw / "imagesTs"), "-o", str(folder / "predictions")),
        *("-c", "3d_fullres", "-tr", "SGNetTrainer", "-f", "0", "-device", plan.device),
        *("--disable_tta", "-step_size", "0.75", "-npp", "1", "-nps", "1"),
    )
    cases = [
        _case_files(path, raw, folder / "predictions") for path in sorted((raw / "labelsTs").glob("*.nii.gz"))
    ]
    overlay = folder / "overlay.png"
    draw_overlay(cases, overlay)
    return DemoResult({case.name: _score_case(case) for case in cases}, overlay)


class _Counter:
    """Counts a stage's steps and passes the count on."""

    def __init__(self, stage: str, total: int, report: Report) -> None:
        self.stage, self.total, self.report, self.done = stage, total, report, 0
        report(stage, 0, total)

    def __call__(self, _: str) -> None:
        self.done += 1
        self.report(self.stage, self.done, self.total)

    def finish(self) -> None:
        self.report(self.stage, self.total, self.total)


def _case_files(reference: Path, raw: Path, predictions: Path) -> CaseFiles:
    name = reference.name.removesuffix(".nii.gz")
    images = raw / "imagesTs"
    return CaseFiles(
        name=name,
        t1ce=images / f"{name}_0000.nii.gz",
        flair=images / f"{name}_0001.nii.gz",
        reference=reference,
        prediction=predictions / reference.name,
    )


def _score_case(case: CaseFiles) -> Scores:
    reference, prediction = read_labels(case.reference), read_labels(case.prediction)
    return score(prediction.data != 0, reference.data != 0, spacing=reference.grid.spacing)
