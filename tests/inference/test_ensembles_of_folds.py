"""Every engine and runtime: an ensemble of folds is the mean of its members."""

import json

import numpy as np
import pytest
import torch

from sgnet_nnunet.inference.exported import FILE_NAME, open_exported
from sgnet_nnunet.inference.runtimes import import_openvino
from sgnet_nnunet.inference.torch_engines import build_engine, stage_models

SEEDS = (0, 1, 2)
ENGINES = {
    # An SG-Net of two levels is too shallow for blocks.
    "dense, torch": {"features": (4, 8), "requested": "whole", "runtime": "torch"},
    "dense, OpenVINO": {"features": (4, 8), "requested": "whole", "runtime": "openvino"},
    "whole, torch": {"requested": "whole", "runtime": "torch"},
    "whole, OpenVINO": {"requested": "whole", "runtime": "openvino"},
    "sparse, torch": {"requested": "sparse", "runtime": "torch"},
    "sparse, OpenVINO": {"requested": "sparse", "runtime": "openvino"},
}


def built(networks, options):
    weights = [network.state_dict() for network in networks]
    return build_engine(networks[0], weights, device=torch.device("cpu"), **options)


@pytest.fixture(params=[*ENGINES, "exported whole", "exported sparse"])
def members_and_ensemble(request, make_network, tmp_path):
    """Return an engine of each fold, and one of all."""
    if request.param.startswith("exported"):
        folder = write_export(tmp_path, {str(seed): make_network(seed=seed) for seed in SEEDS})
        engine = request.param.removeprefix("exported ")
        members = [open_exported(folder, folds=(str(seed),), engine=engine) for seed in SEEDS]
        return members, open_exported(folder, engine=engine)
    options = dict(ENGINES[request.param])
    features = options.pop("features", (4, 8, 8, 16))
    networks = [make_network(seed=seed, features=features) for seed in SEEDS]
    return [built([network], options) for network in networks], built(networks, options)


def write_export(folder, networks):
    content = {
        "format": "sgnet export",
        "version": 1,
        "model": "Dataset501/SGNetTrainer__nnUNetPlans__3d_fullres",
        "configuration": "3d_fullres",
        "background_head": True,
        "mirroring_axes": [],
        "folds": {fold: network.geometry.as_dict() for fold, network in networks.items()},
    }
    (folder / FILE_NAME).write_text(json.dumps(content))
    for fold, network in networks.items():
        for name, model in stage_models(network).items():
            path = folder / f"fold_{fold}" / f"{name}.xml"
            import_openvino().save_model(model, str(path), compress_to_fp16=False)
    return folder


def test_ensemble_of_folds_is_the_mean_of_its_members(members_and_ensemble, smooth_image, rng):
    members, ensemble = members_and_ensemble
    image = smooth_image(rng, (16, 24, 20))
    # The ensemble goes first and last: members must not change each other's weights, nor keep buffers.
    first = ensemble.logits(image).copy()
    singles = [member.logits(image).copy() for member in members]
    np.testing.assert_allclose(first, np.mean(singles, axis=0), atol=1e-5)
    np.testing.assert_array_equal(ensemble.logits(image), first)
    for single in singles:
        assert np.abs(first - single).max() > 0.01
