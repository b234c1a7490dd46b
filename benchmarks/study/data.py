"""The study's data: phantoms, converted, averaged onto a coarser grid, planned and preprocessed."""

import json
import os
import shutil
from pathlib import Path

import SimpleITK as sitk  # noqa: N813

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import run_command
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms
from study.config import (
    DEFAULT_PLANS,
    FALSE_POSITIVE_WEIGHT,
    NOTEBOOK_PLANS,
    SG_NET_PLANS,
    TVERSKY_PLANS,
    StudyConfig,
)

DATASET = "Dataset501_BrainMetsLung"
DONE = "data.done"
TRAINING_SEED, TEST_SEED = 1, 3
POPULATION = PhantomConfig(
    extra_lesions_median=5, extra_lesions_sigma=0.4, diameter_median=9, diameter_sigma=0.5
)
"""About six lesions a patient, as small as the default's.

With the demo's larger ones the ungated network of a first trial had less than one false positive a case,
too few to tell networks apart by.
"""

MAJORITY = 0.5
"""A voxel of the coarser grid is tumour if at least this share of it is."""


def prepare(folder: Path, config: StudyConfig) -> None:
    """Make the data once; a folder that has it is left alone.

    Raises:
        SGNetError: If a stage fails.
    """
    if (folder / DONE).exists():
        return
    workers = os.cpu_count() or 1
    for part, patients, seed in (
        ("Tr", config.training + config.validation, TRAINING_SEED),
        ("Ts", config.test, TEST_SEED),
    ):
        collection = folder / f"phantoms{part}"
        write_phantoms(collection, patients=patients, seed=seed, workers=workers, config=POPULATION)
        converted = convert(collection, folder / f"converted{part}", workers=workers).dataset_folder
        _shrink(converted, folder / "nnUNet_raw" / DATASET, part, config.shrink)
    _describe(folder / "convertedTr" / DATASET, folder / "nnUNet_raw" / DATASET, config)
    _plan(folder, config, workers)
    (folder / DONE).touch()


def _shrink(source: Path, target: Path, part: str, factor: int) -> None:
    for kind in ("images", "labels"):
        out = target / f"{kind}{part}"
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted((source / f"{kind}Tr").glob("*.nii.gz")):
            if factor == 1:
                shutil.copy(path, out)
                continue
            image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
            image = sitk.BinShrink(image, [factor] * 3)
            if kind == "labels":
                image = sitk.Cast(image >= MAJORITY, sitk.sitkUInt8)
            sitk.WriteImage(image, str(out / path.name))


def _describe(converted: Path, raw: Path, config: StudyConfig) -> None:
    shutil.copy(converted / "dataset.json", raw / "dataset.json")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    split = {"train": cases[: config.training], "val": cases[config.training :]}
    (raw / "splits_final.json").write_text(json.dumps([split]))


def _plan(folder: Path, config: StudyConfig, workers: int) -> None:
    environment = nnunet_paths(folder)
    spacing = [str(float(config.shrink))] * 3
    processes = ("-npfp", str(workers), "-np", str(workers))
    for name, planner, options in (
        (SG_NET_PLANS, "SGNetPlanner", ("-overwrite_target_spacing", *spacing)),
        (NOTEBOOK_PLANS, "SGNetNotebookPlanner", ("-overwrite_target_spacing", *spacing)),
        (DEFAULT_PLANS, "ExperimentPlanner", ("-gpu_memory_target", str(config.default_memory_gb))),
    ):
        run_command(
            (
                *("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", *processes),
                *("-pl", planner, "-overwrite_plans_name", name, *options),
            ),
            environment=environment,
            log=folder / f"{name}.log",
        )
    preprocessed = folder / "nnUNet_preprocessed" / DATASET
    patches = {"patch_size": list(config.patch_size), "batch_size": config.batch_size}
    _derive(preprocessed, SG_NET_PLANS, SG_NET_PLANS, patches)
    _derive(preprocessed, NOTEBOOK_PLANS, NOTEBOOK_PLANS, patches)
    _derive(preprocessed, SG_NET_PLANS, TVERSKY_PLANS, {"false_positive_weight": FALSE_POSITIVE_WEIGHT})


def _derive(preprocessed: Path, source: str, name: str, changes: dict[str, object]) -> None:
    """Write a plan that differs from another one, of the same preprocessed data, by `changes`."""
    plans = json.loads((preprocessed / f"{source}.json").read_text(encoding="utf-8"))
    plans["plans_name"] = name
    plans["configurations"]["3d_fullres"] |= changes
    (preprocessed / f"{name}.json").write_text(json.dumps(plans, indent=2), encoding="utf-8")


def nnunet_paths(folder: Path) -> dict[str, str]:
    """Return nnU-Net's three paths within the study's folder; the folders are made."""
    paths = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in paths.items()}
