"""nnU-Net's default network with the plan that its own planner makes for the model's data set."""

import json
import shutil
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from inference_speed.subject import Subject
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import prints_to_log

DATASET = "Dataset501_Benchmark"
FINGERPRINT = "dataset_fingerprint.json"


def default_predictor(subject: Subject) -> Any | None:  # noqa: ANN401 - nnU-Net has no types
    """Return a predictor of the untrained network, or None if the model's folder has no fingerprint.

    Weights do not change what a dense network takes. nnU-Net's paths must be those of `subject.nnunet_paths`.
    """
    if not (subject.model / FINGERPRINT).is_file():
        return None
    dataset: dict[str, Any] = read_json(subject.model / "dataset.json")
    plans = PlansManager(_plan(subject, dataset))
    configuration = plans.get_configuration("3d_fullres")
    torch.manual_seed(0)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(dataset["channel_names"]),
        plans.get_label_manager(dataset).num_segmentation_heads,
        deep_supervision=False,
    )
    predictor = nnUNetPredictor(
        tile_step_size=0.75,
        use_mirroring=False,
        device=torch.device("cpu"),
        perform_everything_on_device=False,
        allow_tqdm=False,
    )
    weights = [network.state_dict()]
    predictor.manual_initialization(
        network.eval(), plans, configuration, weights, dataset, "nnUNetTrainer", None
    )
    return predictor


def _plan(subject: Subject, dataset: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of the data set that the model's folder describes, with one patient for an example."""
    raw, preprocessed = (subject.work / name / DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True, exist_ok=True)
    images = [str(path) for path in subject.cases[subject.first]]
    example = {subject.first: {"images": images, "label": images[0]}}
    (raw / "dataset.json").write_text(json.dumps(dataset | {"dataset": example}), encoding="utf-8")
    shutil.copy(subject.model / FINGERPRINT, preprocessed / FINGERPRINT)
    with prints_to_log():
        plans: dict[str, Any] = ExperimentPlanner(DATASET).plan_experiment()
    return plans
