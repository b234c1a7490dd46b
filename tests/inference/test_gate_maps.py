"""The gates and the prediction of one case are those of the network on the preprocessed image."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.gate_maps import GatedModel, has_gates, look_at_case
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.mark.slow
def test_case_has_the_gates_and_the_reference_on_the_networks_grid(gated_model, images, tmp_path):
    files = sorted(images.glob("b_*"))
    image = nib.load(files[0])
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[8:14, 10:16, 4:8] = 1
    write_volume(tmp_path / "b.nii.gz", Volume(labels, image.affine))
    case = look_at_case(GatedModel(gated_model), "b", files, reference=tmp_path / "b.nii.gz")
    plans = PlansManager(json.loads((gated_model / "plans.json").read_text()))
    configuration = plans.get_configuration("3d_fullres")
    expected, reference, _ = configuration.preprocessor_class(verbose=False).run_case(
        list(map(str, files)),
        str(tmp_path / "b.nii.gz"),
        plans,
        configuration,
        json.loads((gated_model / "dataset.json").read_text()),
    )
    np.testing.assert_allclose(case.image, np.asarray(expected), atol=1e-5)
    assert case.reference.any()
    assert np.mean(case.reference != (np.asarray(reference[0]) > 0)) < 1e-3
    assert list(case.gates) == ["1/8", "1/4", "1/2"]
    for mask in (*case.gates.values(), case.prediction):
        assert mask.shape == case.image.shape[1:]
    assert 0 < case.gates["1/2"].mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("change", ["place", "shape"])
def test_reference_on_another_grid_is_refused(gated_model, images, tmp_path, change):
    files = sorted(images.glob("b_*"))
    image = nib.load(files[0])
    affine, shape = image.affine.copy(), list(image.shape)
    if change == "place":
        affine[0, 3] += 100
    else:
        shape[0] += 1
    labels = np.zeros(shape, dtype=np.uint8)
    labels[8:14, 10:16, 4:8] = 1
    write_volume(tmp_path / "b.nii.gz", Volume(labels, affine))
    with pytest.raises(InputFileError, match=r"b\.nii\.gz: is on another grid than the images"):
        look_at_case(GatedModel(gated_model), "b", files, reference=tmp_path / "b.nii.gz")


def test_the_plan_and_the_trainer_say_whether_a_network_has_gates(gated_model, tmp_path):
    for trainer, gated in (
        ("SGNetTrainer", True),
        ("SGNetNoGateTrainer", False),
        ("BaselineUNetTrainer", False),
    ):
        folder = tmp_path / f"{trainer}__nnUNetPlans__3d_fullres"
        folder.mkdir()
        for name in ("plans.json", "dataset.json"):
            shutil.copy(gated_model / name, folder)
        assert has_gates(folder) is gated
    with pytest.raises(InputFileError, match="its trainer OtherTrainer is neither"):
        has_gates(shutil.copytree(folder, tmp_path / "OtherTrainer__nnUNetPlans__3d_fullres"))


def test_network_without_gates_is_refused(model, images):
    opened = GatedModel(model)
    assert not opened.gate_names
    with pytest.raises(SGNetError, match="SGNetNoGateTrainer: its network has no gates"):
        look_at_case(opened, "a", sorted(images.glob("a_*")))


def outline(gated_model, images, folder, values, *, labels=None):
    """Return the reference that is drawn of a mask with these values on a grid of zeros."""
    files = sorted(images.glob("a_*"))
    mask = np.zeros(nib.load(files[0]).shape, dtype=np.float32)
    for number, value in enumerate(values):
        mask[8 + 6 * number : 13 + 6 * number, 10:16, 4:8] = value
    write_volume(folder / "a.nii.gz", Volume(mask, np.eye(4)))
    if labels:
        gated_model = shutil.copytree(gated_model, folder / "model")
        description = json.loads((gated_model / "dataset.json").read_text())
        (gated_model / "dataset.json").write_text(json.dumps(description | {"labels": labels}))
    return look_at_case(GatedModel(gated_model), "a", files, reference=folder / "a.nii.gz").reference


def test_ignored_voxels_are_not_drawn_as_reference(gated_model, images, tmp_path):
    labels = {"background": 0, "whole_tumor": 1, "ignore": 2}
    drawn = outline(gated_model, images, tmp_path, (1, 2), labels=labels)
    (tmp_path / "without").mkdir()
    expected = outline(gated_model, images, tmp_path / "without", (1, 0))
    assert drawn.any()
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(("value", "kind"), [(-1, "negative"), (0.5, "fractional")])
def test_reference_that_is_no_label_map_is_refused(gated_model, images, tmp_path, value, kind):
    with pytest.raises(InputFileError, match=rf"a\.nii\.gz: mask holds {kind} values"):
        outline(gated_model, images, tmp_path, (1, value))


def test_reference_without_a_lesion_is_drawn_empty(gated_model, images, tmp_path):
    assert not outline(gated_model, images, tmp_path, ()).any()


def test_prediction_and_gates_are_of_one_pass(gated_model, images, dense_logits):
    files = sorted(images.glob("a_*"))
    model = GatedModel(gated_model)
    network = model.trained.network
    before = look_at_case(model, "a", files)
    logits = dense_logits(network, before.image)
    # Half of what the finest gate lets through becomes foreground.
    network.head.bias.data[1] -= float(np.median((logits[1] - logits[0])[before.gates["1/2"]]))
    case = look_at_case(model, "a", files)
    expected = dense_logits(network, case.image).argmax(0) > 0
    assert 0.4 < case.prediction.sum() / case.gates["1/2"].sum() < 0.6
    np.testing.assert_array_equal(case.prediction, expected)
    assert not case.prediction[~case.gates["1/2"]].any()
