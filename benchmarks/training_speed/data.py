"""The benchmark's data: phantoms at 1 mm, planned and preprocessed by our planner and by nnU-Net's own."""

import json
import os
from pathlib import Path

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import run_command
from sgnet_nnunet.files import write_text
from sgnet_nnunet.phantom.population import write_phantoms

DATASET = "Dataset501_BrainMetsLung"
DEFAULT_PLANS = "nnUNetDefaultPlans"
ROOT = Path(__file__).parents[2]


def environment_of(folder: Path) -> dict[str, str]:
    """Return what nnU-Net needs to find the data and the trainers; the folders are made."""
    paths = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in paths.items()} | {"nnUNet_extTrainer": str(ROOT / "trainers")}


def prepare(folder: Path, *, patients: int, memory_gb: float) -> None:
    """Make the data once; a folder that has it is left alone.

    Args:
        folder: Where to work; about 100 MB a patient.
        patients: Patients, at least 2: the last is for validation.
        memory_gb: `-gpu_memory_target` of nnU-Net's own plan.

    Raises:
        SGNetError: If a stage fails.
    """
    done = folder / "data.done"
    if done.exists():
        return
    workers = os.cpu_count() or 1
    environment = environment_of(folder)
    write_phantoms(folder / "phantoms", patients=patients, seed=1, workers=workers)
    converted = convert(folder / "phantoms", folder / "nnUNet_raw", workers=workers).dataset_folder
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (converted / "labelsTr").iterdir())
    write_text(converted / "splits_final.json", json.dumps([{"train": cases[:-1], "val": cases[-1:]}]))
    command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres")
    processes = ("-npfp", str(workers), "-np", str(workers))
    default = ("-overwrite_plans_name", DEFAULT_PLANS, "-gpu_memory_target", str(memory_gb))
    for planner, more in (("SGNetPlanner", ()), ("ExperimentPlanner", default)):
        run_command(
            (*command, *processes, "-pl", planner, *more),
            environment=environment,
            log=folder / f"{planner}.log",
        )
    done.touch()
