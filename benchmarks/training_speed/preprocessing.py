"""Preprocessing of a case off the plan's grid: our planner's resampling beside the stock planner's."""

import json
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from training_speed.data import DATASET, DEFAULT_PLANS
from training_speed.machine import median_of, seconds

SPACING = (1.25, 0.9, 0.9)
"""z, y, x in mm, said of a case at 1 mm so that every axis is resampled."""

PLANS = {"SGNetPlanner": "nnUNetPlans", "stock planner": DEFAULT_PLANS}


class _TimedConfiguration:
    """A configuration that times its resampling."""

    def __init__(self, configuration: ConfigurationManager) -> None:
        self._configuration = configuration
        self.resampling = 0.0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        value = getattr(self._configuration, name)
        return self._timed(value) if name.startswith("resampling_fn") else value

    def _timed(self, function: Any) -> Any:  # noqa: ANN401
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.resampling += perf_counter() - start

        return timed


def measure_preprocessing(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Preprocess one case in memory under both plans in turn.

    Args:
        folder: The data's folder.
        rounds: Rounds, each preprocessing the case once under each plan.

    Returns:
        The case's shape, and for each planner median seconds: `total`, `resampling`.
    """
    raw = folder / "nnUNet_raw" / DATASET
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    label = min((raw / "labelsTr").glob("*.nii.gz"))
    case = label.name.removesuffix(".nii.gz")
    images = sorted(str(path) for path in (raw / "imagesTr").glob(f"{case}_*.nii.gz"))
    data, _ = NibabelIOWithReorient().read_images(images)
    segmentation, _ = NibabelIOWithReorient().read_seg(str(label))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PLANS}
    for _ in range(rounds):
        for name, plans_name in PLANS.items():
            plans = PlansManager(str(folder / "nnUNet_preprocessed" / DATASET / f"{plans_name}.json"))
            configuration = plans.get_configuration("3d_fullres")
            timed = _TimedConfiguration(configuration)
            preprocessor = configuration.preprocessor_class(verbose=False)
            run = partial(preprocessor.run_case_npy, data, segmentation, {"spacing": list(SPACING)})
            total = seconds(partial(run, plans, timed, description))
            found[name].append({"total": total, "resampling": timed.resampling})
    return {
        "shape": [int(n) for n in data.shape],
        "spacing_mm": list(SPACING),
        "planners": {name: median_of(rows) for name, rows in found.items()},
    }
