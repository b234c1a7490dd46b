"""What a trained model costs, measured on a tiny one."""

import json
import logging
from copy import deepcopy

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.evaluation.model_costs import count_parameters, with_costs
from sgnet_nnunet.evaluation.results import Model, PredictedCase, Results
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_dataset, write_fingerprint, nnunet_folders):
    """A model's folder and its preprocessed data set of one case."""
    root = tmp_path_factory.mktemp("nnunet")
    with nnunet_folders(root):
        raw = make_dataset(root / "nnUNet_raw", cases=1, shape=(20, 40, 36))
        preprocessed = root / "nnUNet_preprocessed" / raw.name
        write_fingerprint(preprocessed, cases=1)
        plans = deepcopy(SGNetPlanner(501).plan_experiment())
        plans["configurations"]["3d_fullres"] |= {"patch_size": [16, 32, 32], "batch_size": 2}
        dataset = json.loads((raw / "dataset.json").read_text())
        manager = PlansManager(plans)
        configuration = manager.get_configuration("3d_fullres")
        output = preprocessed / configuration.data_identifier
        output.mkdir()
        images = [str(raw / f"imagesTr/case0_{channel:04d}.nii.gz") for channel in range(2)]
        files = images, str(raw / "labelsTr/case0.nii.gz")
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(output / "case0"), *files, manager, configuration, dataset
        )
        trainer = SGNetTrainer(
            plans | {"continue_training": False}, "3d_fullres", 0, dataset, torch.device("cpu")
        )
        trainer.initialize()
        folder = root / "nnUNet_results" / raw.name / "SGNetTrainer__nnUNetPlans__3d_fullres"
        (folder / "dataset.json").write_text(json.dumps(dataset))
        (folder / "plans.json").write_text(json.dumps(plans))
        trainer.save_checkpoint(str(folder / "fold_0/checkpoint_final.pth"))
    return folder, preprocessed, count_parameters(trainer.network)


def costs_of(folder, preprocessed, *, case="case0", time_cases=1):
    """Return the model of one predicted case with its costs."""
    predicted = PredictedCase(
        model="m", name=case, fold="0", patient="p", reference=folder / "r", prediction=None
    )
    model = Model(name="m", folder=folder)
    results = Results(dataset="d", targets=(), known_values=frozenset(), models=(model,), cases=(predicted,))
    (model,) = with_costs(results, preprocessed, time_cases=time_cases).models
    return model


@pytest.mark.slow
def test_parameters_are_counted_and_a_case_is_timed(trained):
    folder, preprocessed, parameters = trained
    model = costs_of(folder, preprocessed)
    assert model.parameters == parameters > 600_000
    assert 0 < model.seconds_per_case < 60
    assert model.engine == "sparse"


@pytest.mark.slow
def test_a_network_that_needs_tiles_is_timed_with_nnunets_sliding_window(trained, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.inference.torch_engines.runs_on_blocks", lambda _network: False)
    monkeypatch.setattr("sgnet_nnunet.inference.torch_engines.allows_whole_image", lambda _network: False)
    assert costs_of(*trained[:2]).engine == "tiled, step 0.5"


def test_nothing_is_timed_if_not_asked_for(trained):
    folder, preprocessed, parameters = trained
    model = costs_of(folder, preprocessed, time_cases=0)
    assert (model.parameters, model.seconds_per_case) == (parameters, None)


def test_case_that_is_not_preprocessed_is_warned_of(trained, caplog):
    folder, preprocessed, parameters = trained
    model = costs_of(folder, preprocessed, case="case9")
    assert (model.parameters, model.seconds_per_case) == (parameters, None)
    assert "no preprocessed case9; run nnUNetv2_preprocess" in caplog.text


@pytest.mark.parametrize("weights", [None, b"", b"not a checkpoint"])
def test_weights_that_cannot_be_read_leave_the_masks_to_be_evaluated(tmp_path, caplog, weights):
    (tmp_path / "fold_0").mkdir()
    if weights is not None:
        (tmp_path / "fold_0/checkpoint_final.pth").write_bytes(weights)
    for name in ("dataset.json", "plans.json"):
        (tmp_path / name).write_text("{}")
    assert costs_of(tmp_path, tmp_path) == Model(name="m", folder=tmp_path)
    assert "parameters unknown" in caplog.text


def test_every_model_is_looked_at_by_the_fold_of_its_first_case(trained, tmp_path, caplog):
    folder, preprocessed, parameters = trained
    case = {"patient": "p", "reference": tmp_path / "r", "prediction": None}
    results = Results(
        dataset="d",
        targets=(),
        known_values=frozenset(),
        models=(Model(name="a", folder=folder), Model(name="plain")),
        cases=tuple(PredictedCase(model=m, name="case0", fold="0", **case) for m in ("a", "plain")),
    )
    with caplog.at_level(logging.WARNING):
        found = with_costs(results, preprocessed, time_cases=0)
    assert [model.parameters for model in found.models] == [parameters, None]
    assert caplog.text == ""
