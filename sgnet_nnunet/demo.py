"""`sgnet demo`: phantoms through conversion, planning, training and prediction, by nnU-Net's own commands."""

import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.errors import SGNetError, disk_full
from sgnet_nnunet.evaluation.measurement import evaluate
from sgnet_nnunet.files import inside, make_folder
from sgnet_nnunet.inference.predictor import PredictionOptions, predict
from sgnet_nnunet.inference.shipped import find_models
from sgnet_nnunet.nifti import read_image, read_labels
from sgnet_nnunet.nnunet import FOLDER_VARIABLES, find_masks
from sgnet_nnunet.parallel import run_until_we_end
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

if TYPE_CHECKING:
    import pandas as pd

DATASET_ID = "501"
SHIPPED = "synthetic_predictions"
"""Folder of the masks of the model in the package."""

METRICS = ("dice", "precision", "recall", "hd95_directed_mm")

# More and larger tumours than by default: minutes of training on a CPU suffice.
POPULATION = PhantomConfig(
    extra_lesions_median=5, extra_lesions_sigma=0.4, diameter_median=13, diameter_sigma=0.35
)

Report = Callable[[str, int, int], None]
"""Called with a stage's name, the number of steps done, and the number of steps in all."""


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """Size of the demo: phantom patients (7/10 train, the last 2/10 test), epochs, batches an epoch."""

    patients: int = 10
    seed: int = 0
    epochs: int = 10
    iters: int = 16
    device: str = "cpu"  # or cuda, mps


@dataclass(frozen=True)
class DemoResult:
    """The demo's scores and picture.

    Attributes:
        shipped: The columns `METRICS` for each held-out case and for their mean, by the model in the package.
        scores: The same of the model that was trained.
        overlay: The picture of the cases.
    """

    shipped: "pd.DataFrame"
    scores: "pd.DataFrame"
    overlay: Path


def run_demo(folder: Path, plan: DemoPlan, *, report: Report) -> DemoResult:
    """Run the demo; `folder` then contains the phantoms, nnU-Net's folders, the logs and the picture.

    Raises:
        SGNetError: If a stage fails.
    """
    make_folder(inside(folder, "logs"))
    paths = nnunet_paths(folder)
    for name in ("phantoms", SHIPPED, "predictions"):
        inside(folder, name)
    workers = os.cpu_count() or 1
    write_phantoms(
        folder / "phantoms",
        patients=plan.patients,
        seed=plan.seed,
        workers=workers,
        on_done=_Counter("phantom patients", plan.patients, report),
        config=POPULATION,
    )
    raw = convert(
        folder / "phantoms",
        paths["nnUNet_raw"],
        dataset_id=int(DATASET_ID),
        split="paper",
        workers=workers,
        on_done=_Counter("converting", plan.patients, report),
    ).dataset_folder
    report("model in the package", 0, 1)
    options = PredictionOptions(device=plan.device if plan.device != "cpu" else None)
    predict(raw / "imagesTs", folder / SHIPPED, model_folders=find_models((), options), options=options)
    report("model in the package", 1, 1)
    _run_nnunet(folder, raw, plan, report=report, workers=workers)
    shipped, scores = (
        scores_of(folder / name, raw / "labelsTs", METRICS) for name in (SHIPPED, "predictions")
    )
    overlay = folder / "overlay.png"
    draw_overlay(raw, folder / "predictions", overlay)
    return DemoResult(shipped, scores, overlay)


def scores_of(predictions: Path, references: Path, metrics: Sequence[str]) -> "pd.DataFrame":
    """Return these metrics of each case, which is the index, and of their mean."""
    scores = evaluate(predictions, references).set_index("case")[list(metrics)]
    scores.loc["mean"] = scores.mean()
    return scores


def _run_nnunet(folder: Path, raw: Path, plan: DemoPlan, *, report: Report, workers: int) -> None:
    """Plan, train and predict; each command writes a log of its name into `logs`."""
    environment = nnunet_paths(folder) | {
        "SGNET_EPOCHS": str(plan.epochs),
        "SGNET_ITERS": str(plan.iters),
        "SGNET_VAL_ITERS": "1",
        "SGNET_MIRRORING": "0",
        "nnUNet_def_n_proc": str(workers),
        "nnUNet_n_proc_DA": str(workers),
    }
    processes = str(workers)
    stages = {
        "planning, preprocessing": [
            *("nnUNetv2_plan_and_preprocess", "-d", DATASET_ID, "-pl", "SGNetPlanner", "-c", "3d_fullres"),
            *("--verify_dataset_integrity", "-npfp", processes, "-np", processes),
        ],
        "training": [
            *("nnUNetv2_train", DATASET_ID, "3d_fullres", "0", "-tr", "SGNetTrainer", "-device", plan.device)
        ],
        "predicting": [
            *("nnUNetv2_predict", "-d", DATASET_ID, "-i", str(raw / "imagesTs")),
            *("-o", str(folder / "predictions"), "-c", "3d_fullres", "-tr", "SGNetTrainer", "-f", "0"),
            *("-device", plan.device, "--disable_tta", "-step_size", "0.75", "-npp", "1", "-nps", "1"),
        ],
    }
    for stage, arguments in stages.items():
        counter = _Counter(stage, plan.epochs if stage == "training" else 1, report, step="Epoch time")
        log = folder / "logs" / f"{arguments[0]}.log"
        run_command(arguments, environment=environment, log=log, on_line=counter)
        report(stage, counter.total, counter.total)


def nnunet_paths(folder: Path) -> dict[str, str]:
    """Return nnU-Net's three path variables, set to folders below a folder that are made.

    Raises:
        SGNetError: If one of them leads elsewhere, or cannot be made or written to.
    """
    paths = {name: inside(folder, name) for name in FOLDER_VARIABLES}
    for path in paths.values():
        make_folder(path)
    return {name: str(path) for name, path in paths.items()}


def run_command(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None] = lambda _: None,
) -> None:
    """Run a command of this Python environment and write its output, standard error included, to a log.

    The variables are added to those of the process; `on_line` is called with each line of output.

    Raises:
        SGNetError: If the command ends with a status other than 0; names the log and quotes its last line,
            or if the disk is full.
    """
    last = ""
    log.unlink(missing_ok=True)  # the log must not be written through a link
    try:
        with (
            log.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
            run_until_we_end(
                [str(Path(sysconfig.get_path("scripts"), arguments[0])), *arguments[1:]],
                environment=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment),
            ) as process,
        ):
            for line in process.stdout or ():
                file.write(line)
                last = line.strip() or last
                on_line(line)
    except OSError as error:
        if full := disk_full(error, log):
            raise full from error
        raise
    if process.returncode:
        problem = f"ended with status {process.returncode}; see {log}, which ends with: {last}"
        raise SGNetError(f"`{' '.join(arguments)}` {problem}")


class _Counter:
    """Counts a stage's steps, the lines that contain `step`, and reports each."""

    def __init__(self, stage: str, total: int, report: Report, *, step: str = "") -> None:
        self.stage, self.total, self.report, self.step, self.done = stage, total, report, step, 0
        report(stage, 0, total)

    def __call__(self, line: str) -> None:
        if self.step in line:
            self.done += 1
            self.report(self.stage, self.done, self.total)


def draw_overlay(raw: Path, predictions: Path, path: Path) -> None:
    """Draw one row a test case of a raw data set, as PNG, on the slice with most of the reference.

    The columns are T1ce, FLAIR, and FLAIR with the contours of the reference and of the prediction.
    """
    rows = []
    for name, file in find_masks(raw / "labelsTs").items():
        t1ce, flair = (read_image(raw / f"imagesTs/{name}_{i:04d}.nii.gz").oriented() for i in range(2))
        reference, prediction = (
            read_labels(mask).oriented().data != 0 for mask in (file, predictions / file.name)
        )
        contours = [
            Contour(mask=reference, colour=REFERENCE_COLOUR, name=REFERENCE),
            Contour(mask=prediction, colour=PREDICTION_COLOUR, name=PREDICTION),
        ]
        k = fullest_slice(reference, default=reference.shape[2] // 2)
        scans = {"T1ce": to_grey(t1ce.data), "FLAIR": to_grey(flair.data)}
        panels = [
            Panel(grey=grey, k=k, title=f"{scan}, {name}" if scan == "T1ce" else scan)
            for scan, grey in scans.items()
        ]
        panels += [Panel(grey=scans["FLAIR"], k=k, title="", contours=[contour]) for contour in contours]
        view = view_of(scans["T1ce"] > 0, spacing=t1ce.grid.spacing, pixels_per_mm=2)
        rows.append(draw_panels(panels, view))
    save_png(tile(rows, columns=1), path)
