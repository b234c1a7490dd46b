"""Train a network on synthetic patients alone, and measure it on real ones.

    python tools/synthetic.py train synthetic_output
    python tools/synthetic.py test synthetic_output --collection COLLECTION --collection COLLECTION

`train` can be stopped and started again: each stage that is finished is left out, and the training goes on
from its latest checkpoint. `test` works at any time after the first checkpoint, also beside the training.
"""

import logging
import shutil
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import nnunet_paths, run_command
from sgnet_nnunet.evaluation.measurement import evaluate
from sgnet_nnunet.files import write_json
from sgnet_nnunet.inference.predictor import PredictionOptions, predict
from sgnet_nnunet.nnunet import CHECKPOINT, CHECKPOINT_BEST, CHECKPOINT_LATEST
from sgnet_nnunet.phantom.population import draw_ids, patient_rng, write_phantoms
from sgnet_nnunet.phantom.wide import WidePopulation

DATASET = "Dataset501_BrainMetsLung"
PLANNER = "SGNetFlairDropoutPlanner"
SEED = 21
POPULATION = WidePopulation(calibrated=0.2)
"""Of five patients, one is of the calibrated population of metastases."""

VALIDATION = 4
"""Number of patients that nnU-Net validates on."""

METRICS = [
    "dice", "precision", "recall", "lesion_sensitivity", "lesion_sensitivity_from_10mm", "false_positives",
]  # fmt: skip
"""Columns that `test` prints."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("synthetic")

Folder = Annotated[Path, typer.Argument(help="Work folder; about 6 GB.")]


def model_of(folder: Path) -> Path:
    """Return the folder of the trained model."""
    return folder / "nnUNet_results" / DATASET / "SGNetTrainer__nnUNetPlans__3d_fullres"


def prepare(folder: Path, patients: int, workers: int) -> None:
    """Make, convert, plan and preprocess the patients, unless that is done."""
    done = folder / "data.done"
    if done.exists():
        return
    phantoms, raw, processes = folder / "patients", folder / "nnUNet_raw", str(workers)
    if not (folder / "patients.done").exists():
        write_phantoms(phantoms, patients=patients, seed=SEED, workers=workers, config=POPULATION)
        (folder / "patients.done").touch()
    paths = nnunet_paths(folder)
    convert(phantoms, raw, workers=workers)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / DATASET / "labelsTr").iterdir())
    # The first patients, which are the same however many there are.
    first = tuple(draw_ids(patient_rng(SEED, index))[0] for index in range(VALIDATION))
    held_out = [case for case in cases if case.startswith(first)]
    folds = [{"train": [case for case in cases if case not in held_out], "val": held_out}]
    write_json(raw / DATASET / "splits_final.json", folds)
    command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", "-pl", PLANNER)
    run_command((*command, "-npfp", processes, "-np", processes), environment=paths, log=folder / "plan.log")
    done.touch()


@app.command()
def train(
    folder: Folder,
    patients: Annotated[int, typer.Option("-n", min=8, help="Synthetic patients.")] = 200,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs; a checkpoint every tenth.")] = 160,
    iters: Annotated[int, typer.Option(min=1, help="Batches of four patches in an epoch.")] = 25,
    device: Annotated[str, typer.Option("-device", help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes that prepare the data.")] = 2,
) -> None:
    """Make the patients and train; minutes on a GPU after an hour of preparation, hours on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder, patients, workers)
    settings = {
        "SGNET_EPOCHS": str(epochs),
        "SGNET_ITERS": str(iters),
        "SGNET_VAL_ITERS": "1",
        "SGNET_SEED": str(SEED),
        "SGNET_MIRRORING": "0",
        "SGNET_VALIDATION_ENGINE": "auto",
        "SGNET_BF16": str(int(device == "cpu")),
    }
    fold = model_of(folder) / "fold_0"
    started = any((fold / name).exists() for name in (CHECKPOINT_LATEST, CHECKPOINT_BEST))
    command = ("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "SGNetTrainer", "-device", device)
    run_command(
        (*command, *(("--c",) if started else ())),
        environment=nnunet_paths(folder) | settings,
        log=folder / "train.log",
    )


@app.command("test")
def measure(
    folder: Folder,
    collection: Annotated[
        list[Path], typer.Option(help="Folder of real patients in the collection's layout.", exists=True)
    ],
    name: Annotated[str, typer.Option(help="Name of the folder of predictions.")] = "latest",
) -> None:
    """Predict real patients with the latest checkpoint and print the scores of each."""
    folder = folder.resolve()
    raw = folder / "real" / DATASET
    if not raw.exists():
        for path in collection:
            shutil.copytree(path, folder / "real_patients", dirs_exist_ok=True)
        convert(folder / "real_patients", folder / "real")
        shutil.rmtree(folder / "real_patients")
    final = (model_of(folder) / "fold_0" / CHECKPOINT).exists()
    output = folder / "predictions" / name
    options = PredictionOptions(device="cpu", checkpoint=CHECKPOINT if final else CHECKPOINT_LATEST)
    predict(raw / "imagesTr", output, model_folders=[model_of(folder)], options=options)
    scores = evaluate(output, raw / "labelsTr").set_index("case")[METRICS]
    scores.loc["mean"] = scores.mean()
    typer.echo(scores.to_string(float_format="%.3f"))


if __name__ == "__main__":
    app()
