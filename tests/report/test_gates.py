from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sgnet_nnunet.inference.gate_maps import GatedCase
from sgnet_nnunet.report.case_pictures import choose, gates_of


def with_folder(figures, folder):
    first, *others = figures.results.models
    return replace(figures, results=replace(figures.results, models=(replace(first, folder=folder), *others)))


def test_a_model_without_a_folder_has_no_gates(write_figures):
    figures = write_figures()
    found = gates_of(figures.results, choose(figures))
    assert found.pictures == {}
    assert found.skipped == ()


def test_another_network_has_no_gates(write_figures, tmp_path):
    figures = with_folder(write_figures(), tmp_path / "BaselineUNetTrainer__nnUNetPlans__3d_fullres")
    assert gates_of(figures.results, choose(figures)).skipped == ()


def test_weights_that_are_not_there_are_said_to_be_missing(write_figures, tmp_path):
    figures = with_folder(write_figures(), tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres")
    found = gates_of(figures.results, choose(figures))
    assert found.pictures == {}
    (sentence,) = found.skipped
    assert "first" in sentence
    assert str(Path("fold_0") / "checkpoint_final.pth") in sentence


@pytest.fixture
def load_network(monkeypatch):
    """Return a function that lets every model's folder hold a network with these gates."""

    def load(*gates):
        model = SimpleNamespace(gate_names=gates)
        monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.open_gated_model", lambda *_, **__: model)
        monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.look_at_case", look)

    def look(model, name, images, *, reference):
        mask = np.zeros((6, 20, 16), dtype=bool)
        mask[2:4, 8:12, 4:9] = True
        gates = dict.fromkeys(model.gate_names, mask)
        image = np.ones((len(images), *mask.shape), dtype=np.float32)
        return GatedCase(
            name=name, image=image, spacing=(4.0, 1.0, 1.0), gates=gates, prediction=mask, reference=mask
        )

    return load


def test_the_gates_of_the_cases_that_are_shown_large_are_drawn(write_figures, tmp_path, load_network):
    load_network("1/4", "1/2")
    figures = with_folder(write_figures(), tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres")
    found = gates_of(figures.results, choose(figures))
    assert set(found.pictures) == {("first", name) for name in ("a", "b", "c")}
    assert all(png.startswith(b"\x89PNG") for png in found.pictures.values())
    assert found.skipped == ()


def test_an_ungated_network_has_no_gates(write_figures, tmp_path, load_network):
    load_network()
    figures = with_folder(write_figures(), tmp_path / "SGNetNoGateTrainer__nnUNetPlans__3d_fullres")
    found = gates_of(figures.results, choose(figures))
    assert found.pictures == {}
    assert found.skipped == ()


def test_cases_without_images_are_said_to_be_missing(write_figures, tmp_path, load_network):
    load_network("1/4")
    figures = with_folder(write_figures(images=False), tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres")
    (sentence,) = gates_of(figures.results, choose(figures)).skipped
    assert "the images of a are not at hand" in sentence
