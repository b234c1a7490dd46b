"""The model in the package: train it on synthetic patients alone, ship it, and test it on real ones.

    python tools/synthetic.py train synthetic_output
    python tools/synthetic.py ship synthetic_output 1 CARD
    python tools/synthetic.py test real_output --collection COLLECTION --results benchmarks/results

`train` can be stopped and started again: each stage that is finished is left out, and the training goes on
from its latest checkpoint. `ship` writes the folder that `sgnet_nnunet/inference/shipped.py` describes.
"""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
import typer
from safetensors.torch import save_file

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import nnunet_paths, run_command, scores_of
from sgnet_nnunet.files import atomic_folder, checksum_of, read_json, write_json
from sgnet_nnunet.inference.export import export_openvino
from sgnet_nnunet.inference.operating_point import FILE_NAME as POINT_FILE
from sgnet_nnunet.inference.predictor import PredictionOptions, open_model, predict
from sgnet_nnunet.inference.shipped import MODELS, OPENVINO, SYNTHETIC, ShippedModel, find_models
from sgnet_nnunet.inference.trust import load_pickle
from sgnet_nnunet.nnunet import ALL, CHECKPOINT, CHECKPOINT_BEST, CHECKPOINT_LATEST
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import draw_ids, patient_rng, write_phantoms
from sgnet_nnunet.phantom.wide import WidePopulation

DATASET = "Dataset501_BrainMetsLung"
PLANNER = "SGNetPlanner"
SEED = 21
POPULATIONS: dict[str, PhantomConfig | WidePopulation] = {
    "wide": WidePopulation(calibrated=0.2),
    "metastases": PhantomConfig(),
}
"""Of five patients of the wide one, one is of the calibrated population of metastases."""

METRICS = [
    "dice", "precision", "recall", "lesion_sensitivity", "lesion_sensitivity_from_10mm", "false_positives",
]  # fmt: skip
"""Columns that `test` prints."""

KEPT = ("channel_names", "labels", "file_ending", "numTraining", "overwrite_image_reader_writer")
"""Of dataset.json; the rest describes the phantoms' conversion."""

CURVES = ("train_losses", "val_losses", "lrs")
"""Of the training's log, one value an epoch; `ship` keeps them."""

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("synthetic")

Folder = Annotated[Path, typer.Argument(help="Work folder; about 6 GB.")]


def model_of(folder: Path) -> Path:
    """Return the folder of the trained model."""
    return folder / "nnUNet_results" / DATASET / "SGNetTrainer__nnUNetPlans__3d_fullres"


def prepare(folder: Path, *, patients: int, held_out: int, population: str, seed: int, workers: int) -> None:
    """Make, convert, plan and preprocess the patients, the first of them held out, unless that is done."""
    done = folder / "data.done"
    if done.exists():
        return
    phantoms, raw, processes = folder / "patients", folder / "nnUNet_raw", str(workers)
    if not (folder / "patients.done").exists():
        write_phantoms(
            phantoms, patients=patients, seed=seed, workers=workers, config=POPULATIONS[population]
        )
        (folder / "patients.done").touch()
    paths = nnunet_paths(folder)
    convert(phantoms, raw, workers=workers)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / DATASET / "labelsTr").iterdir())
    # The first patients, which are the same however many there are.
    first = tuple(draw_ids(patient_rng(seed, index))[0] for index in range(held_out))
    validation = [case for case in cases if case.startswith(first)]
    folds = [{"train": [case for case in cases if case not in validation], "val": validation}]
    write_json(raw / DATASET / "splits_final.json", folds)
    command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", "-pl", PLANNER)
    run_command((*command, "-npfp", processes, "-np", processes), environment=paths, log=folder / "plan.log")
    done.touch()


@app.command()
def train(
    folder: Folder,
    patients: Annotated[int, typer.Option("-n", min=8, help="Synthetic patients.")] = 200,
    epochs: Annotated[int, typer.Option(min=2, help="Epochs; a checkpoint every tenth.")] = 30,
    iters: Annotated[int, typer.Option(min=1, help="Batches of four patches in an epoch.")] = 25,
    device: Annotated[str, typer.Option("-device", help="cpu or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes that prepare the data.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training, not of the patients.")] = SEED,
    population: Annotated[
        Literal["wide", "metastases"], typer.Option(help="Population of the patients, as of sgnet phantom.")
    ] = "wide",
    patients_seed: Annotated[int, typer.Option(min=0, help="Seed of the patients.")] = SEED,
    held_out: Annotated[int, typer.Option(min=1, help="Patients that it is not trained on.")] = 4,
    weights: Annotated[
        Path | None, typer.Option("-pretrained_weights", help="Checkpoint to start from.", exists=True)
    ] = None,
) -> None:
    """Make the patients and train; half an hour on a CPU core after an hour of preparation."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(
        folder,
        patients=patients,
        held_out=held_out,
        population=population,
        seed=patients_seed,
        workers=workers,
    )
    settings = {
        "SGNET_EPOCHS": str(epochs),
        "SGNET_ITERS": str(iters),
        "SGNET_VAL_ITERS": "1",
        "SGNET_SEED": str(seed),
        "SGNET_MIRRORING": "0",
        "SGNET_VALIDATION_ENGINE": "auto",
        "SGNET_BF16": str(int(device == "cpu")),
    }
    fold = model_of(folder) / "fold_0"
    started = any((fold / name).exists() for name in (CHECKPOINT_LATEST, CHECKPOINT_BEST))
    command = ("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", "SGNetTrainer", "-device", device)
    start = ("-pretrained_weights", str(weights.resolve())) if weights else ()
    run_command(
        (*command, *(("--c",) if started else start)),
        environment=nnunet_paths(folder) | settings,
        log=folder / "train.log",
    )


@app.command()
def ship(
    folder: Folder,
    version: Annotated[int, typer.Argument(min=1, help="Version of the weights.")],
    card: Annotated[Path, typer.Argument(help="The model card, Markdown; {sha256} becomes the weights'.")],
) -> None:
    """Write the trained model's folder in the package, which must not exist."""
    model, name = model_of(folder.resolve()), f"{SYNTHETIC}-{version}"
    if (MODELS / name).exists():
        raise typer.BadParameter(f"{MODELS / name} is there already; choose another version")
    with atomic_folder(MODELS / name) as partial:
        shipped = ShippedModel(partial / name)
        trained = shipped.folder / model.name
        (trained / f"fold_{ALL}").mkdir(parents=True)
        dataset, plans = (read_json(model / f"{each}.json") for each in ("dataset", "plans"))
        write_json(trained / "dataset.json", {key: dataset[key] for key in KEPT if key in dataset})
        # Of it the model's name in each run.json is made.
        write_json(trained / "plans.json", plans | {"dataset_name": name})
        content = load_pickle(model / "fold_0" / CHECKPOINT)
        weights = {key: values.contiguous() for key, values in content["network_weights"].items()}
        torch.save(
            {
                "network_weights": weights,
                "trainer_name": content["trainer_name"],
                "init_args": {"configuration": content["init_args"]["configuration"], "fold": ALL},
                "inference_allowed_mirroring_axes": content["inference_allowed_mirroring_axes"],
            },
            shipped.checkpoint,
        )
        save_file(weights, shipped.weights)
        shipped.weights.chmod(0o644)  # it is written for its owner alone
        copy_point(model, trained)
        curves = pd.DataFrame({name: content["logging"][name] for name in CURVES}).rename_axis("epoch")
        curves.to_csv(shipped.folder / "training.csv", float_format="%.4f")
        export_openvino(trained, shipped.folder / OPENVINO, folds=[ALL])
        text = card.read_text(encoding="utf-8").replace("{sha256}", checksum_of(shipped.weights))
        shipped.card.write_text(text, encoding="utf-8")
        for path in list(shipped.folder.iterdir()):
            path.rename(partial / path.name)
        shipped.folder.rmdir()


def copy_point(model: Path, copy: Path) -> None:
    """Copy a model's operating point, if it has one, for the weights of a copy of the model."""
    if (point := model / POINT_FILE).exists():
        tuned_for = asdict(open_model(copy, PredictionOptions(device="cpu")).find_provenance())
        write_json(copy / POINT_FILE, read_json(point) | {"tuned_for": tuned_for})


def with_gates_bypassed(model: Path, copy: Path) -> Path:
    """Copy a trained model into a folder, with gates that let everything pass, and return the copy."""
    shutil.copytree(model, copy / model.name, dirs_exist_ok=True)
    for path in (copy / model.name).glob("fold_*/*.pth"):
        content = load_pickle(path)
        for name, values in content["network_weights"].items():
            if name.endswith(".bypassed"):
                values.fill_(True)
        torch.save(content, path)
    copy_point(model, copy / model.name)
    return copy / model.name


@app.command("test")
def measure(
    folder: Annotated[Path, typer.Argument(help="Work folder.")],
    collection: Annotated[
        list[Path], typer.Option(help="Folder of real patients in the collection's layout.", exists=True)
    ],
    model: Annotated[Path, typer.Option(help="Another model than that in the package.")] = Path(SYNTHETIC),
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint's name.")] = CHECKPOINT,
    results: Annotated[Path | None, typer.Option(help="Folder for synthetic.json.")] = None,
    bypass: Annotated[bool, typer.Option("--bypass", help="Let the gates pass everything.")] = False,
) -> None:
    """Predict real patients, and print the scores of each."""
    folder = folder.resolve()
    raw = folder / "real" / DATASET
    if not raw.exists():
        for path in collection:
            shutil.copytree(path, folder / "real_patients", dirs_exist_ok=True)
        convert(folder / "real_patients", folder / "real")
        shutil.rmtree(folder / "real_patients")
    options = PredictionOptions(device="cpu", checkpoint=checkpoint, runtime="torch" if bypass else "auto")
    models = find_models([model], options)
    if bypass:
        models = [with_gates_bypassed(models[0], folder / "bypassed")]
    predict(raw / "imagesTr", folder / "predictions", model_folders=models, options=options)
    scores = scores_of(folder / "predictions", raw / "labelsTr", METRICS)
    typer.echo(scores.to_string(float_format="%.3f"))
    if results:
        cases = json.loads(scores.to_json(orient="index", double_precision=4))
        write_json(results / "synthetic.json", {"model": models[0].parent.name, "cases": cases})


if __name__ == "__main__":
    app()
