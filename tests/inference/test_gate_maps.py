"""The gates and the prediction of one case are those of the network on the preprocessed image."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.gate_maps import look_at_case, open_gated_model
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.fixture(scope="module")
def gated(model, make_network, tmp_path_factory):
    """Return the folder of a model with gates that are enabled in places."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("gated") / "model")
    network = make_network(gate_kwargs={"groups": 2})
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] = {
        "features_per_stage": [4, 8, 8, 16],
        "gate_kwargs": {"groups": 2},
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    path = folder / "fold_0/checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "trainer_name": "SGNetTrainer", "network_weights": network.state_dict()}, path)
    return folder


@pytest.mark.slow
def test_case_has_the_gates_and_the_reference_on_the_networks_grid(gated, images, tmp_path):
    files = sorted(images.glob("b_*"))
    image = nib.load(files[0])
    labels = np.zeros(image.shape, dtype=np.uint8)
    labels[8:14, 10:16, 4:8] = 1
    write_volume(tmp_path / "b.nii.gz", Volume(labels, image.affine))
    case = look_at_case(open_gated_model(gated), "b", files, reference=tmp_path / "b.nii.gz")
    plans = PlansManager(json.loads((gated / "plans.json").read_text()))
    configuration = plans.get_configuration("3d_fullres")
    expected, reference, _ = configuration.preprocessor_class(verbose=False).run_case(
        list(map(str, files)),
        str(tmp_path / "b.nii.gz"),
        plans,
        configuration,
        json.loads((gated / "dataset.json").read_text()),
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
def test_reference_on_another_grid_is_refused(gated, images, tmp_path, change):
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
        look_at_case(open_gated_model(gated), "b", files, reference=tmp_path / "b.nii.gz")


def test_network_without_gates_is_refused(model, images):
    opened = open_gated_model(model)
    assert not opened.gate_names
    with pytest.raises(SGNetError, match="SGNetNoGateTrainer: its network has no gates"):
        look_at_case(opened, "a", sorted(images.glob("a_*")))
