"""The notebooks run, and are committed without outputs."""

import json
from pathlib import Path

import pytest
import torch

from sgnet_nnunet.networks.sgnet import SGNet

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
FEATURES = (2, 2, 2, 2)

PARAMETERS = """
WORK, MODEL, SEED = Path({work!r}), Path({model!r}), 10
FIRST = replace(
    POPULATION, extra_lesions_median=1, extra_lesions_sigma=0.1, diameter_median=9, diameter_sigma=0.1,
    brain_scale=(0.6, 0.6), vessels=0, max_core_fraction=0.05, max_tumour_fraction=0.1,
)
SECOND = replace(FIRST, diameter_median=11.5)
"""
"""A small head with one lesion, and a model that needs no training."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_no_outputs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.fixture
def model(nnunet_paths, write_fingerprint, make_dataset):
    """Return the folder of a model for which a lesion is what is bright in T1ce over 3 x 3 x 3 voxels."""
    from sgnet_nnunet.planning.planner import SGNetPlanner  # noqa: PLC0415 - nnU-Net reads its folders

    raw = make_dataset(nnunet_paths / "nnUNet_raw", cases=2)
    write_fingerprint(nnunet_paths / "nnUNet_preprocessed/Dataset501_Tiny", cases=2)
    plans = SGNetPlanner(501).plan_experiment()
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= {
        "features_per_stage": FEATURES,
        "gate": "none",
    }
    folder = nnunet_paths / "model"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    dataset = json.loads((raw / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(dataset | {"channel_names": {"0": "T1ce", "1": "FLAIR"}}))
    checkpoint = {
        "trainer_name": "SGNetNoGateTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": bright().state_dict(),
    }
    torch.save(checkpoint, folder / "fold_0/checkpoint_final.pth")
    return folder


def bright():
    """Return an SG-Net of which the first channel of each full-resolution block is the mean of T1ce."""
    network = SGNet(2, 2, features_per_stage=FEATURES, gate="none")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "conv" in name or name.startswith(("encoder", "head")):
                parameter.zero_()
        network.encoder[0][0].weight[0, 0] = 1 / 27
        network.encoder[0][1].weight[0] = 1
        skip = FEATURES[0]  # after the channels that come from below
        network.decoder[-1].conv[0].weight[0, skip, 1, 1, 1] = 1
        network.decoder[-1].conv[1].weight[0] = 1
        network.head.weight[1, 0], network.head.bias[1] = 50, -40
    return network


@pytest.mark.slow
def test_new_patient_is_segmented_and_followed(model, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "notebooks/new_patient.ipynb", as_version=4)
    (cell,) = (each for each in notebook.cells if "parameters" in each.metadata.get("tags", ()))
    cell.source = PARAMETERS.format(work=str(tmp_path / "work"), model=str(model))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for visit in ("first", "second"):
        assert json.loads((tmp_path / "work" / visit / "lesions.json").read_text())["lesions"]
    outputs = [output for each in notebook.cells for output in each.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in outputs) == 2
    (changes,) = (text for output in outputs if (text := output["data"].get("text/markdown")))
    assert "grown" in changes.partition("| All")[0]
