import json
from dataclasses import asdict
from inspect import signature

import numpy as np
import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.networks.gates import GateSupervision, HardSpatialGate
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.planning.planner import (
    SGNetFlairDropoutPlanner,
    SGNetNotebookPlanner,
    SGNetPlanner,
    SGNetUnclippedPlanner,
)


@pytest.fixture
def plan(nnunet_paths, make_dataset, write_fingerprint):
    """Return a function that plans a tiny data set from a fingerprint written by hand."""

    def run(*, planner=SGNetPlanner, channels=2, options=None, **fingerprint):
        folder = nnunet_paths / "nnUNet_raw" / "Dataset501_Tiny"
        if not folder.exists():
            make_dataset(folder.parent, channels=channels)
        preprocessed = nnunet_paths / "nnUNet_preprocessed" / folder.name
        write_fingerprint(preprocessed, channels=channels, **fingerprint)
        instance = planner(501, **(options or {}))
        instance.plan_experiment()
        return json.loads((preprocessed / f"{instance.plans_identifier}.json").read_text())

    return run


def test_plan_has_the_fixed_configuration_under_nnunets_default_name(plan):
    plans = plan()
    configuration = plans["configurations"]["3d_fullres"]
    assert plans["plans_name"] == "nnUNetPlans"
    assert plans["experiment_planner_used"] == "SGNetPlanner"
    assert plans["transpose_forward"] == plans["transpose_backward"] == [0, 1, 2]
    assert configuration["spacing"] == [1.0, 1.0, 1.0]
    assert configuration["patch_size"] == [32, 96, 96]
    assert configuration["batch_size"] == 4
    assert configuration["normalization_schemes"] == ["PercentileTo01Normalization"] * 2
    assert configuration["resampling_fn_data"] == "resample_torch_fornnunet"
    assert configuration["architecture"]["arch_kwargs"]["gate"] == "hard_spatial"


def test_plan_holds_one_configuration_only(plan):
    # Large images make nnU-Net's own planner add a low-resolution cascade.
    assert list(plan(shape=(400, 500, 500))["configurations"]) == ["3d_fullres"]


def test_plans_network_can_be_built_by_nnunet(plan):
    configuration = PlansManager(plan()).get_configuration("3d_fullres")
    assert configuration.network_arch_class_name == "sgnet_nnunet.networks.sgnet.SGNet"
    SGNet(2, 1, **configuration.network_arch_init_kwargs)


def test_plan_names_every_choice_of_the_gate(plan):
    configuration = plan()["configurations"]["3d_fullres"]
    arguments = configuration["architecture"]["arch_kwargs"]
    assert set(arguments["gate_kwargs"]) == set(signature(HardSpatialGate).parameters) - {"channels"}
    chosen = set(arguments) | {"input_channels", "num_classes"}
    assert chosen == set(signature(SGNet).parameters)
    written, default = configuration["gate_supervision"], asdict(GateSupervision())
    assert written == {name: default[name] for name in ("positive_weight", "auxiliary_weight", "warm_up")}
    assert "loss" not in configuration


def test_plans_gate_is_the_networks_own_default(plan):
    arguments = plan()["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    for name, value in arguments["gate_kwargs"].items():
        assert signature(HardSpatialGate).parameters[name].default == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "background_head"),
    [({"background": 0, "a": 1, "b": 2}, True), ({"background": 0, "a": [1, 2], "b": [2]}, False)],
)
def test_plan_says_whether_there_is_a_background_head(plan, labels, background_head, nnunet_paths):
    plan()
    path = nnunet_paths / "nnUNet_raw/Dataset501_Tiny/dataset.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"labels": labels, "regions_class_order": [1, 2]})
    )
    arguments = plan()["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert arguments["background_head"] is background_head


def test_median_shape_is_that_at_the_target_spacing(plan):
    plans = plan(shape=(30, 200, 180), spacing=(5.0, 0.5, 0.5))
    assert plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] == [150, 100, 90]


def test_identity_transpose_even_for_thick_slices_along_x(plan):
    plans = plan(
        shape=(200, 180, 30), spacing=(0.5, 0.5, 5.0), options={"overwrite_target_spacing": [0.5, 0.5, 5.0]}
    )
    assert plans["transpose_forward"] == [0, 1, 2]
    assert plans["configurations"]["3d_fullres"]["spacing"] == [0.5, 0.5, 5.0]


@pytest.mark.parametrize("planner", [SGNetPlanner, SGNetUnclippedPlanner, SGNetNotebookPlanner])
@pytest.mark.parametrize("kept", [0.3, 0.84, 1.0])
def test_images_are_normalised_within_the_brain_however_much_of_the_field_it_fills(plan, planner, kept):
    assert plan(planner=planner, kept=kept)["configurations"]["3d_fullres"]["use_mask_for_norm"] == [True] * 2


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(plan, channels):
    schemes = plan(channels=channels)["configurations"]["3d_fullres"]["normalization_schemes"]
    assert schemes == ["PercentileTo01Normalization"] * channels


@pytest.mark.parametrize(
    ("planner", "different"),
    [
        (SGNetUnclippedPlanner, {"normalization_schemes": ["PercentileNormalization"] * 2}),
        (SGNetNotebookPlanner, {}),
    ],
)
def test_the_other_planners_differ_in_their_normalisation_at_most(plan, planner, different):
    ours, others = plan(), plan(planner=planner, options={"plans_name": "OtherPlans"})
    ours, others = (plans["configurations"]["3d_fullres"] for plans in (ours, others))
    assert ours | different | {"data_identifier": "OtherPlans_3d_fullres"} == others


def name_channels(nnunet_paths, *names):
    path = nnunet_paths / "nnUNet_raw/Dataset501_Tiny/dataset.json"
    names = {str(number): name for number, name in enumerate(names)}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": names}))


def test_flair_dropout_is_all_that_its_planner_adds_and_no_other_plan_mentions_it(plan, nnunet_paths):
    plan()
    name_channels(nnunet_paths, "T1ce", "T2-FLAIR")
    ours = plan()
    others = plan(planner=SGNetFlairDropoutPlanner, options={"plans_name": "OtherPlans"})
    assert "dropout" not in json.dumps(ours)
    assert "sgnet_missing_channels" not in json.dumps(others)
    ours, others = (plans["configurations"]["3d_fullres"] for plans in (ours, others))
    changed = {"channel_dropout": {"T2-FLAIR": 0.25}, "data_identifier": "OtherPlans_3d_fullres"}
    assert ours | changed == others


@pytest.mark.parametrize("names", [("T1ce", "T2"), ("FLAIR",)])
def test_flair_dropout_requires_flair_and_another_channel(plan, nnunet_paths, names):
    plan(channels=len(names))
    name_channels(nnunet_paths, *names)
    with pytest.raises(SGNetError, match="requires FLAIR and another one"):
        plan(planner=SGNetFlairDropoutPlanner, channels=len(names), options={"plans_name": "OtherPlans"})


def test_two_dimensional_data_are_refused(plan):
    with pytest.raises(SGNetError, match="images are 2D"):
        plan(shape=(1, 200, 200))


def test_own_plan_is_made_anew(plan):
    assert plan() == plan()


@pytest.mark.parametrize(
    "former",
    [
        {"normalization_schemes": ["PercentileNormalization"] * 2},
        {"use_mask_for_norm": [False, False]},
    ],
)
def test_a_plan_with_the_normalisation_of_an_earlier_version_is_not_overwritten(plan, nnunet_paths, former):
    plans = plan()
    plans["configurations"]["3d_fullres"] |= former
    path = nnunet_paths / "nnUNet_preprocessed/Dataset501_Tiny/nnUNetPlans.json"
    path.write_text(json.dumps(plans))
    with pytest.raises(SGNetError, match="made by SGNetPlanner with another normalisation; add"):
        plan()
    assert json.loads(path.read_text()) == plans


def test_another_planners_plan_is_not_overwritten(plan, nnunet_paths):
    plan(planner=ExperimentPlanner)
    path = nnunet_paths / "nnUNet_preprocessed/Dataset501_Tiny/nnUNetPlans.json"
    before = path.read_bytes()
    with pytest.raises(SGNetError, match="made by ExperimentPlanner; add `-overwrite_plans_name SGNetPlans`"):
        plan()
    assert path.read_bytes() == before
    assert plan(options={"plans_name": "SGNetPlans"})["plans_name"] == "SGNetPlans"


def test_folds_that_have_changed_are_named_before_nnunet_fails(plan, nnunet_paths):
    plan()
    raw, preprocessed = (
        nnunet_paths / name / "Dataset501_Tiny/splits_final.json"
        for name in ("nnUNet_raw", "nnUNet_preprocessed")
    )
    preprocessed.write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}]))
    raw.write_text(json.dumps([{"train": ["case2", "case1"], "val": ["case0"]}]))
    with pytest.raises(InputFileError, match="delete the file, then plan again with --clean") as raised:
        plan()
    assert raised.value.path == preprocessed
    preprocessed.unlink()
    plan()
    assert json.loads(preprocessed.read_text()) == json.loads(raw.read_text())


def test_fingerprint_of_another_number_of_cases_is_refused(plan, nnunet_paths):
    plan()
    folder = nnunet_paths / "nnUNet_raw/Dataset501_Tiny"
    for path in [*folder.glob("*/case4.nii.gz"), *folder.glob("*/case4_*")]:
        path.unlink()
    with pytest.raises(InputFileError, match="was made of 5 cases, the data set has 4; add --clean"):
        plan()


def test_plan_is_plain_json_without_numpy_types(plan):
    assert isinstance(plan()["original_median_shape_after_transp"][0], int)
    assert np.prod(plan()["configurations"]["3d_fullres"]["patch_size"]) == 32 * 96 * 96
