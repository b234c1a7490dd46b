import json
import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.eulerangles import euler2mat
from PIL import Image

from sgnet_nnunet.evaluation.comparison import compare
from sgnet_nnunet.evaluation.measurement import measure_results
from sgnet_nnunet.inference.gate_maps import GatedCase
from sgnet_nnunet.report.case_pictures import CaseJob, channel_names, choose, draw_case, gates_of, load_case
from sgnet_nnunet.report.figures import colours_of
from sgnet_nnunet.report.slices import GAP, LARGEST_PANEL

SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 4)) for seed in range(12)]


def answers_of(results, name):
    return tuple(case for case in results.cases if case.name == name)


def drawn(results, name, **options):
    return draw_case(
        CaseJob(
            answers=answers_of(results, name),
            results=results,
            colours=colours_of(results.models),
            large=(("first", "tumour"),),
            **options,
        )
    )


@pytest.mark.parametrize("axes", ["RAS", "LPS", "AIL", "SRP"])
def test_a_case_looks_the_same_however_its_grid_lies(write_results, axes, tmp_path):
    volumes = load_case(answers_of(write_results(axes=axes), "a"))
    assert nib.aff2axcodes(volumes.affine) == ("R", "A", "S")
    assert volumes.reference.shape == (30, 36, 12)
    assert volumes.reference[6, 22, 6] == 1
    assert volumes.reference[30 - 6, 22, 6] == 0
    assert volumes.images["channel 0"][6, 22, 6] > 500


def test_a_missing_prediction_is_an_empty_mask(write_results):
    volumes = load_case(answers_of(write_results(missing=(("second", "a"),)), "a"))
    assert not volumes.predictions["second"].any()
    assert volumes.predictions["first"].any()


def move(path, *, by=1.0):
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += by
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


def shrink(path):
    nib.save(nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), path)


def blank(path):
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, dtype=np.int16), image.affine), path)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [move, shrink, blank, truncate, Path.unlink])
def test_an_unusable_image_costs_only_its_channel(write_results, damage):
    results = write_results()
    damage(answers_of(results, "a")[0].images[1])
    volumes = load_case(answers_of(results, "a"))
    assert list(volumes.images) == ["channel 0"]
    assert list(volumes.problems) == ["channel 1"]
    pictures = drawn(results, "a")
    assert pictures.thumbnails["tumour"].content
    (problem,) = pictures.problems
    assert problem.startswith("channel 1: ")


@pytest.mark.slow
def test_an_image_100_mm_away_is_not_drawn_and_all_pages_say_so(write_results, write_page, tmp_path):
    results = write_results(names=("a",))
    for path in results.cases[0].images:
        move(path, by=100.0)
    pictures = drawn(results, "a", viewer=tmp_path / "viewer")
    assert [problem.partition(": ")[0] for problem in pictures.problems] == ["channel 0", "channel 1"]
    assert all("puts it up to 100 mm off its reference" in problem for problem in pictures.problems)
    picture = Image.open(BytesIO(pictures.thumbnails["tumour"].content))
    assert picture.width < picture.height * 2  # one panel, not one a channel
    script = (tmp_path / "viewer" / "cases" / "a.js").read_text(encoding="utf-8")
    content = json.loads(script.removeprefix("showCase(").removesuffix(");\n"))
    assert content["images"] == []
    assert content["notes"] == list(pictures.problems)
    page = write_page(measure_results(results), tmp_path / "report")
    # Under the case's row of the table, and under its picture for each of the two models.
    assert page.count("no picture: channel 1: ") == 3


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] * (seed >= 4)) for seed in range(12)]
)
def test_pictures_are_bounded_whatever_the_size_of_a_voxel(write_results, seed, tmp_path):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*rng.uniform(-3, 3, 3)) @ np.diag(10.0 ** rng.uniform(-1.3, 3, 3))
    results = write_results(names=("a",), affine=affine)
    tracemalloc.start()
    start = process_time()
    figures = measure_results(results)
    pictures = drawn(results, "a", viewer=tmp_path / "viewer")
    seconds, (_, peak) = process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not pictures.problems
    assert len(figures.per_lesion)
    for picture in (*pictures.thumbnails.values(), *pictures.large.values()):
        width, height = Image.open(BytesIO(picture.content)).size
        assert 0 < width <= 6 * (LARGEST_PANEL + GAP)
        assert 0 < height <= LARGEST_PANEL
    assert (tmp_path / "viewer" / "cases" / "a.js").stat().st_size < 2**20
    assert peak < 2**26
    assert seconds < 30


def test_an_unreadable_mask_costs_the_pictures_of_its_case(write_results):
    results = write_results()
    truncate(answers_of(results, "a")[0].prediction)
    pictures = drawn(results, "a")
    assert pictures.thumbnails["tumour"].problem == pictures.large["first", "tumour"].problem != ""
    assert drawn(results, "b").problems == ()


def test_a_viewer_that_cannot_be_written_costs_no_picture(write_results, tmp_path):
    (tmp_path / "viewer").write_text("a file")
    pictures = drawn(write_results(), "a", viewer=tmp_path / "viewer")
    assert pictures.thumbnails["tumour"].content
    assert pictures.problems[0].startswith("viewer: ")


def test_channels_have_the_names_of_the_data_set(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1ce", "1": "FLAIR"}}))
    images = [tmp_path / "imagesTr" / f"a_{i:04d}.nii.gz" for i in range(3)]
    assert channel_names(images) == ("T1ce", "FLAIR", "channel 2")


def test_channels_of_one_name_are_numbered(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MRI", "1": "MRI"}}))
    images = [tmp_path / "imagesTr" / f"a_{i:04d}.nii.gz" for i in range(2)]
    assert channel_names(images) == ("MRI 0", "MRI 1")


def test_channels_without_a_data_set_have_numbers(tmp_path):
    assert channel_names([tmp_path / "x" / "a.nii.gz"]) == ("channel 0",)


def test_a_damaged_description_of_the_data_set_leaves_numbers(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    assert channel_names([tmp_path / "imagesTr" / "a_0000.nii.gz"]) == ("channel 0",)


def chosen(dice):
    """Return the roles of cases with these values of Dice."""
    names = [f"{chr(97 + i)}" for i in range(len(dice))]
    table = pd.DataFrame({"case": names, "patient": names, "dice": dice}).assign(
        model="first", label="tumour", fold="", empty="", missing=False
    )
    return [(choice.role, choice.case) for choice in choose(compare(table, resamples=50), table)]


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.1, 0.9, 0.5, 0.6, 0.2], [("best", "b"), ("median", "c"), ("worst", "a")]),
        ([0.1, 0.9], [("best", "b"), ("worst", "a")]),
        ([0.4], [("best", "a")]),
        ([np.nan, 0.9, np.nan], [("best", "b")]),
        ([np.nan, np.nan], []),
        ([0.5, 0.5, 0.5], [("best", "a"), ("median", "b"), ("worst", "c")]),
    ],
)
def test_best_median_and_worst_case_by_dice(dice, expected):
    assert chosen(dice) == expected


def gates(figures, folder=None):
    first, *others = figures.results.models
    results = replace(figures.results, models=(replace(first, folder=folder), *others))
    choices = choose(compare(figures.per_case, resamples=50), figures.per_case)
    return gates_of(results, choices, colours=colours_of(results.models))


def test_a_model_without_a_folder_has_no_gates(write_figures):
    assert gates(write_figures()) == {}


def test_a_model_whose_network_cannot_be_built_is_warned_of(write_figures, tmp_path, caplog):
    assert gates(write_figures(), tmp_path / SGNET) == {}
    assert f"{SGNET}: gates are not drawn: " in caplog.text


@pytest.fixture
def load_network(monkeypatch):
    """Return a function that lets every model's folder hold a network with these gates."""

    def load(*gates):
        monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.has_gates", lambda *_, **__: bool(gates))
        model = SimpleNamespace(gate_names=gates)
        monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.GatedModel", lambda *_, **__: model)
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


SGNET = "SGNetTrainer__nnUNetPlans__3d_fullres"


def test_the_gates_of_the_chosen_cases_are_drawn(write_figures, tmp_path, load_network):
    load_network("1/4", "1/2")
    found = gates(write_figures(), tmp_path / SGNET)
    assert set(found) == {("first", name) for name in ("a", "b", "c")}
    assert all(picture.content for picture in found.values())


def test_an_ungated_network_has_no_gates(write_figures, tmp_path, load_network):
    load_network()
    assert gates(write_figures(), tmp_path / SGNET) == {}


def test_weights_that_are_missing_cost_the_picture(write_figures, tmp_path, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.has_gates", lambda *_, **__: True)
    found = gates(write_figures(), tmp_path / SGNET)
    assert str(Path("fold_0") / "checkpoint_final.pth") in found["first", "a"].problem


def test_a_case_without_images_costs_only_its_picture(write_figures, tmp_path, load_network):
    load_network("1/4")
    figures = write_figures()
    cases = [replace(case, images=()) if case.name == "a" else case for case in figures.results.cases]
    found = gates(replace(figures, results=replace(figures.results, cases=tuple(cases))), tmp_path / SGNET)
    assert "no images" in found["first", "a"].problem
    assert found["first", "b"].content
