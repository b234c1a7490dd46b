"""The plan as read here is nnU-Net's, and what needs PyTorch is refused."""

import json

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.plan import labels_of, read_plan


def test_values_are_those_of_nnunet(make_plan):
    plan, manager = make_plan(
        top={"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]},
        configuration={"spacing": [2.0, 1, 0.5], "use_mask_for_norm": [True, False]},
    )
    configuration = manager.get_configuration("3d_fullres")
    assert list(plan.transpose_forward) == manager.transpose_forward
    assert list(plan.transpose_backward) == manager.transpose_backward
    assert list(plan.spacing) == configuration.spacing
    assert list(plan.normalisations) == configuration.normalization_schemes
    assert list(plan.masked) == configuration.use_mask_for_norm
    assert plan.channels == ("T1ce", "FLAIR")
    assert plan.file_ending == ".nii.gz"


def test_configuration_inherits(make_model):
    folder = make_model()
    plan = read_plan(folder, "3d_fullres")
    plan.plans["configurations"]["wide"] = {"inherits_from": "3d_fullres", "spacing": [2, 2, 2]}
    folder = make_model(top={"configurations": plan.plans["configurations"]})
    assert read_plan(folder, "wide").spacing == (2, 2, 2)
    assert read_plan(folder, "wide").normalisations == plan.normalisations


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"configuration": {"preprocessor_name": "MyPreprocessor"}}, "MyPreprocessor"),
        ({"configuration": {"resampling_fn_data": "resample_data_or_seg_to_shape"}}, "resample_data_or_seg"),
        ({"configuration": {"resampling_fn_probabilities": "no_resampling"}}, "probabilities no_resampling"),
        ({"configuration": {"resampling_fn_data_kwargs": {"force_separate_z": None}}}, "force_separate_z"),
        ({"configuration": {"previous_stage": "3d_lowres"}}, "cascade"),
        ({"configuration": {"spacing": [1.0, 1.0], "patch_size": [32, 32]}}, "2D"),
        (
            {"configuration": {"normalization_schemes": ["NoNormalization"], "use_mask_for_norm": [False]}},
            "2 values were expected, got 1",
        ),
        ({"configuration": {"inherits_from": "3d_fullres"}}, "configuration 3d_fullres"),
        ({"top": {"label_manager": "MyLabels"}}, "MyLabels"),
        (
            {"top": {"transpose_forward": [0, 1]}},
            r"plans\.json: \$\.transpose_forward: expected array of length 3",
        ),
        ({"top": {"transpose_forward": [0, 2, 1], "transpose_backward": [1, 0, 2]}}, "does not undo"),
        ({"dataset": {"labels": {"background": 0, "core": [1, 2]}}}, "regions_class_order has 0"),
        ({"dataset": {"labels": 5}}, r"dataset\.json: \$\.labels: expected object, got 5"),
    ],
)
def test_what_cannot_be_exact_is_refused(make_model, changes, words):
    with pytest.raises(InputFileError, match=words) as caught:
        read_plan(make_model(**changes), "3d_fullres")
    assert caught.value.path.name == ("dataset.json" if "dataset" in changes else "plans.json")
    assert "\n" not in str(caught.value)


def test_unknown_configuration_names_those_there(make_model):
    with pytest.raises(InputFileError, match="2d; name one of these: 3d_fullres"):
        read_plan(make_model(), "2d")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_unreadable_file_is_named(make_model, content):
    folder = make_model()
    path = folder / "dataset.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputFileError, match=r"dataset\.json"):
        read_plan(folder, "3d_fullres")


def test_missing_key_is_named(make_model):
    folder = make_model()
    plans = json.loads((folder / "plans.json").read_text())
    del plans["configurations"]["3d_fullres"]["resampling_fn_data"]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(InputFileError, match="fullres: object missing required field resampling_fn_data"):
        read_plan(folder, "3d_fullres")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ({"background": 0, "tumour": 1}, None),
        ({"background": 0, "tumour": 1}, [1]),
        ({"background": 0, "a": 2, "b": 1, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
        ({"background": 0, "whole": [1, 2], "core": (2,), "ignore": 3}, [2, 1]),
        ({"background": 0, "only": [1]}, None),
    ],
)
def test_labels_agree_with_nnunet(names, order):
    ours, theirs = labels_of(names, order), LabelManager(names, order)
    assert ours.has_regions == theirs.has_regions
    assert ours.heads == theirs.num_segmentation_heads
    assert list(ours.foreground_labels) == theirs.foreground_labels
    if ours.has_regions:
        assert list(ours.regions_class_order) == theirs.regions_class_order


def test_regions_need_an_order_for_each():
    with pytest.raises(ValueError, match="1 entries for 2 regions"):
        labels_of({"background": 0, "whole": [1, 2], "core": [2]}, [1])
