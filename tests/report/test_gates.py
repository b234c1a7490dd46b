from dataclasses import replace
from pathlib import Path

from sgnet_nnunet.report.choice import choose
from sgnet_nnunet.report.gates import gates_of


def with_folder(figures, folder):
    first, *others = figures.results.models
    return replace(figures, results=replace(figures.results, models=(replace(first, folder=folder), *others)))


def test_a_model_without_a_folder_has_no_gates(write_figures):
    figures = write_figures()
    found = gates_of(figures.results, choose(figures))
    assert found.pictures == {}
    assert found.skipped == ()


def test_another_network_has_no_gates(write_figures, tmp_path):
    figures = with_folder(write_figures(), tmp_path / "UNetTrainer__nnUNetPlans__3d_fullres")
    assert gates_of(figures.results, choose(figures)).skipped == ()


def test_weights_that_are_not_there_are_said_to_be_missing(write_figures, tmp_path):
    figures = with_folder(write_figures(), tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres")
    found = gates_of(figures.results, choose(figures))
    assert found.pictures == {}
    (sentence,) = found.skipped
    assert "first" in sentence
    assert str(Path("fold_0") / "checkpoint_final.pth") in sentence
