"""Fixtures shared by all tests: a tiny nnU-Net data set, and the paths nnU-Net works in."""

# ruff: noqa: PLC0415 - the evaluation and pandas take seconds to import, and most tests need neither

import builtins
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from sgnet_nnunet.nifti import Volume, write_volume

# nnU-Net reads it when it is imported, and would start eight workers.
os.environ["nnUNet_def_n_proc"] = "1"  # noqa: SIM112

# The same draws in every run; other ones with SGNET_FUZZ_EXAMPLES, which asks for more of them.
settings.register_profile(
    "repeatable",
    derandomize="SGNET_FUZZ_EXAMPLES" not in os.environ,
    deadline=None,  # the machine may be busy
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

RESULTS_AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
NNUNET_PATHS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture
def without_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that has the import of a module fail, as if it were not installed."""
    load = builtins.__import__

    def remove(module: str) -> None:
        def fail(name, *args, **kwargs):
            if name == module:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return load(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", fail)

    return remove


@pytest.fixture
def nnunet_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set nnU-Net's three paths to folders under one temporary folder, which is returned."""
    for name in NNUNET_PATHS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("EPOCHS", "ITERS", "VAL_ITERS", "PATIENCE", "BF16", "MIRRORING"):
        monkeypatch.delenv(f"SGNET_{name}", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def nnunet_folders() -> Callable[[Path], AbstractContextManager[None]]:
    """Return a context manager that makes nnU-Net's three folders under one, and sets its paths to them."""

    @contextmanager
    def made(root: Path) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in NNUNET_PATHS:
                (root / name).mkdir(exist_ok=True)
                patch.setenv(name, str(root / name))
            yield

    return made


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Return a function that writes a small raw nnU-Net data set."""

    def write(
        raw: Path,
        *,
        name: str = "Dataset501_Tiny",
        cases: int = 5,
        channels: int = 2,
        shape: tuple[int, int, int] = (40, 44, 36),
        labels: dict[str, object] | None = None,
        regions_class_order: list[int] | None = None,
        values: tuple[int, ...] = (1,),
    ) -> Path:
        folder = raw / name
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "labelsTr").mkdir()
        rng = np.random.default_rng(0)
        for i in range(cases):
            label = np.zeros(shape, dtype=np.uint8)
            for value in values:
                corner = rng.integers(6, 20, size=3)
                label[tuple(slice(c, c + 8) for c in corner)] = value
            for channel in range(channels):
                data = np.zeros(shape, dtype=np.int16)
                data[3:-3, 3:-3, 3:-3] = rng.normal(300, 30, size=[n - 6 for n in shape])
                data[label > 0] += 400
                write_volume(folder / f"imagesTr/case{i}_{channel:04d}.nii.gz", Volume(data, np.eye(4)))
            write_volume(folder / f"labelsTr/case{i}.nii.gz", Volume(label, np.eye(4)))
        description = {
            "channel_names": {str(c): f"MR{c}" for c in range(channels)},
            "labels": labels or {"background": 0, "tumour": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIOWithReorient",
        }
        if regions_class_order:
            description["regions_class_order"] = regions_class_order
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return write


@pytest.fixture(scope="session")
def planned_in_this_process() -> Iterator[None]:
    """Have nnU-Net's planner list the images in a thread: it forks twelve processes of torch for it."""
    from nnunetv2.utilities import utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "Pool", lambda *_, **__: ThreadPool(1))
        yield


@pytest.fixture(scope="session")
def write_fingerprint(planned_in_this_process: None) -> Callable[..., None]:
    """Return a function that writes the fingerprint nnU-Net would extract from a tiny data set."""

    def write(
        preprocessed: Path,
        *,
        cases: int = 5,
        channels: int = 2,
        shape: tuple[int, int, int] = (30, 38, 34),
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        kept: float = 0.5,
    ) -> None:
        keys = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")
        fingerprint = {
            "spacings": [list(spacing)] * cases,
            "shapes_after_crop": [list(shape)] * cases,
            "foreground_intensity_properties_per_channel": {
                str(c): dict.fromkeys(keys, 1.0) for c in range(channels)
            },
            "median_relative_size_after_cropping": kept,
        }
        preprocessed.mkdir(parents=True, exist_ok=True)
        (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))

    return write


@pytest.fixture(scope="session")
def make_results() -> Callable[..., Path]:
    """Return a function that writes what nnU-Net leaves of trained models, weights aside.

    Two scans a patient, each with two lesions; each model in turn moves them one voxel further, and
    adds a false positive.
    """

    def write(
        root: Path,
        *,
        dataset: str = "Dataset501_Tiny",
        models: tuple[str, ...] = ("SGNetTrainer", "BaselineUNetTrainer"),
        cases: int = 6,
        folds: int = 3,
        shape: tuple[int, int, int] = (24, 22, 20),
        labels: dict[str, object] | None = None,
        images: bool = True,
        probabilities: bool = False,
    ) -> Path:
        description = {
            "channel_names": {"0": "T1ce", "1": "FLAIR"},
            "labels": labels or {"background": 0, "whole_tumor": 1},
            "numTraining": cases,
            "file_ending": ".nii.gz",
        }
        raw, preprocessed, results = (root / name / dataset for name in NNUNET_PATHS)
        for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed / "gt_segmentations"):
            folder.mkdir(parents=True)
        for folder in (raw, preprocessed):
            (folder / "dataset.json").write_text(json.dumps(description))
        names = [f"YG_P{i // 2:03d}_YG_A{i:03d}" for i in range(cases)]
        splits = [{"train": [], "val": names[fold::folds]} for fold in range(folds)]
        for fold in splits:
            fold["train"] = [name for name in names if name not in fold["val"]]
        (preprocessed / "splits_final.json").write_text(json.dumps(splits))
        rng = np.random.default_rng(0)
        for index, name in enumerate(names):
            reference = np.zeros(shape, dtype=np.uint8)
            reference[3:9, 4:9, 3:8] = 1
            reference[14 : 16 + index % 3, 12:15, 12:14] = 1
            for folder in (raw / "labelsTr", preprocessed / "gt_segmentations"):
                write_volume(folder / f"{name}.nii.gz", Volume(reference, RESULTS_AFFINE))
            for channel in range(2 if images else 0):
                image = (rng.normal(300, 30, shape) + 400.0 * reference).astype(np.int16)
                write_volume(raw / "imagesTr" / f"{name}_{channel:04d}.nii.gz", Volume(image, RESULTS_AFFINE))
            for step, model in enumerate(models):
                parts = model.split("__")
                folder = results / "__".join(parts + ["nnUNetPlans", "3d_fullres"][len(parts) - 1 :])
                validation = folder / f"fold_{index % folds}" / "validation"
                validation.mkdir(parents=True, exist_ok=True)
                (folder / "dataset.json").write_text(json.dumps(description))
                _predict(validation, name, reference, step, probabilities=probabilities)
        return root

    return write


def _predict(folder: Path, name: str, reference: np.ndarray, step: int, *, probabilities: bool) -> None:
    predicted = np.roll(reference, step, axis=0)
    predicted[-3:-1, -3:-1, -3:-1] = step > 0
    write_volume(folder / f"{name}.nii.gz", Volume(predicted, RESULTS_AFFINE))
    if probabilities:
        # nnU-Net's arrays lie (channel, z, y, x).
        tumour = (0.1 + 0.8 * predicted.T).astype(np.float16)
        np.savez_compressed(folder / f"{name}.npz", probabilities=np.stack([1 - tumour, tumour]))


LABEL = "tumour"


@pytest.fixture(scope="session")
def label_managers() -> dict[str, Any]:
    """Return nnU-Net's manager of each kind of labels."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    return {
        "one label": LabelManager({"background": 0, "tumour": 1}, None),
        "three labels": LabelManager({"background": 0, "oedema": 1, "core": 2, "cyst": 3}, None),
        "regions": LabelManager({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2]),
    }


@pytest.fixture(scope="session")
def rows() -> Callable[..., Any]:
    """Return a function that writes rows of `per_case` for one model, a case for each value."""
    import pandas as pd

    def write(*, model: str = "A", patients: str | None = None, label: str = LABEL, **values):
        """Write rows: `patients` has a letter for each case; `values` are the columns of metrics."""
        cases = len(next(iter(values.values())))
        columns = {
            "model": model,
            "fold": "0",
            "case": [f"case{i:03d}" for i in range(cases)],
            "patient": list(patients) if patients else [f"p{i:03d}" for i in range(cases)],
            "label": label,
            "empty": "",
            "missing": False,
        }
        return pd.DataFrame(columns | values)

    return write


@pytest.fixture(scope="session")
def figures_of() -> Callable[..., Any]:
    """Return a function that makes figures out of rows of cases and lesions."""
    import pandas as pd

    from sgnet_nnunet.evaluation.measurement import LESION_COLUMNS, Measurements
    from sgnet_nnunet.evaluation.results import Model, PredictedCase, Results, Target

    def make(per_case, per_lesion=None, **model):
        names = list(dict.fromkeys(per_case["model"]))
        results = Results(
            dataset="Dataset501_Tiny",
            targets=tuple(Target(name=name, values=(1,)) for name in dict.fromkeys(per_case["label"])),
            known_values=frozenset({0, 1}),
            models=tuple(Model(name=name, **model) for name in names),
            cases=tuple(
                PredictedCase(
                    model=row.model,
                    name=row.case,
                    patient=row.patient,
                    reference=Path(f"{row.case}.nii.gz"),
                    prediction=None if row.missing else Path(f"{row.model}/{row.case}.nii.gz"),
                )
                for row in per_case.itertuples()
            ),
        )
        lesions = pd.DataFrame(columns=list(LESION_COLUMNS)) if per_lesion is None else per_lesion
        return Measurements(results=results, per_case=per_case, per_lesion=lesions)

    return make


@pytest.fixture(scope="session")
def random_figures(figures_of) -> Callable[..., Any]:
    """Return a function that draws figures with empty masks and a missing prediction."""
    import pandas as pd

    from sgnet_nnunet.evaluation.measurement import CASE_COLUMNS, LESION_COLUMNS
    from sgnet_nnunet.evaluation.registry import case_metrics

    def draw(*, models: int = 3, cases: int = 20, seed: int = 0, metrics: tuple[str, ...] = ()):
        headline = (each.name for each in case_metrics() if each.headline)
        metrics = metrics or (*headline, "lesion_sensitivity_under_5mm")
        rng = np.random.default_rng(seed)
        names = [f"Model_{i}" for i in range(models)]
        tables, lesions = [], []
        for strength, name in enumerate(names):
            table = pd.DataFrame({name: rng.random(cases) for name in metrics})
            table["dice"] = np.clip(table["dice"] * 0.3 + 0.5 + 0.03 * strength, 0, 1)
            table[[c for c in table if c.endswith("_mm") or c == "false_positives"]] *= 20
            table["lesion_sensitivity_under_5mm"] = np.where(rng.random(cases) < 0.4, np.nan, 0.5)
            keys = {
                "model": name,
                "fold": [str(i % 5) for i in range(cases)],
                "case": [f"case{i:03d}" for i in range(cases)],
                "patient": [f"patient{i // 2:03d}" if i < 6 else f"patient{i:03d}" for i in range(cases)],
                "label": LABEL,
                "empty": ["both", "prediction", "reference", *[""] * (cases - 3)],
                "missing": [False, strength == 1, *[False] * (cases - 2)],
            }
            table.loc[0, table.columns.difference(["false_positives"])] = np.nan
            tables.append(pd.DataFrame(keys).join(table)[[*CASE_COLUMNS, *table.columns]])
            number = 5 * cases
            of = rng.integers(cases, size=number)
            lesions.append(
                pd.DataFrame(
                    {key: ([keys[key][i] for i in of] if key in ("fold", "case", "patient") else keys[key])
                     for key in ("model", "fold", "case", "patient", "label")}
                    | {"status": rng.choice(["detected", "missed", "false positive"], number),
                       "diameter_mm": rng.uniform(1, 20, number)}
                    | dict.fromkeys(("dice", "hd95_mm", "volume_mm3", "x_mm", "y_mm", "z_mm"), 0.0)
                )[list(LESION_COLUMNS)]
            )  # fmt: skip
        return figures_of(
            pd.concat(tables, ignore_index=True),
            pd.concat(lesions, ignore_index=True),
            parameters=670_000,
            seconds_per_case=1.5,
            engine="sparse",
        )

    return draw
