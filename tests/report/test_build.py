import re
from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.froc import Froc
from sgnet_nnunet.evaluation.results import Target


@pytest.fixture(scope="module")
def page(report):
    return (report / "report.html").read_text(encoding="utf-8")


def test_a_report_is_a_page_its_plots_and_a_viewer(report):
    assert sorted(path.name for path in report.iterdir()) == ["plots", "report.html", "viewer"]
    plots = {path.name for path in (report / "plots").iterdir()}
    assert plots == {"metrics.png", "lesion_size.png", "precision_recall.png"}
    assert {path.name for path in (report / "viewer" / "cases").iterdir()} == {"a.js", "b.js", "c & d.js"}


def test_the_page_asks_for_no_other_file(page):
    sources = re.findall(r"src=\"([^\"]*)\"", page)
    assert len(sources) == 3 + 3 + 2 * 3
    assert all(source.startswith("data:image/") for source in sources)
    assert "@import" not in page
    assert "url(" not in page
    assert "<link" not in page


def test_links_lead_into_the_page_or_to_the_viewer(page):
    links = re.findall(r"href=\"([^\"]*)\"", page)
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= set(re.findall(r"id=\"([^\"]*)\"", page))
    assert "viewer/index.html#c%20%26%20d" in links


def test_names_are_escaped(page, hostile):
    assert hostile not in page
    assert "<img src=x" not in page
    assert "A &amp; B&#34;&lt;img" in page


def test_a_missing_prediction_is_said_to_be_missing(page):
    assert re.search(r"1 prediction of .* is missing", page)
    assert "no prediction" in page


def test_masks_without_images_are_drawn_for_every_label(write_page, write_figures, tmp_path):
    targets = (Target(name="whole tumour", values=(1,)), Target(name="core", values=(2,)))
    page = write_page(write_figures(targets=targets, images=False), tmp_path / "report", workers=1)
    # A thumbnail for each case and label, and the large ones of the label that has a Dice.
    assert page.count("data:image/webp;base64,") == 2 * 3 + 2 * 3
    assert 'id="label-2-table"' in page
    assert (tmp_path / "report" / "plots" / "2_metrics.png").is_file()
    assert not (tmp_path / "report" / "viewer").exists()


def test_the_same_figures_give_the_same_page_with_any_number_of_processes(
    write_page, write_figures, tmp_path
):
    figures = write_figures(names=tuple("abcdef"), images=False)
    pages = [write_page(figures, tmp_path / f"report{workers}", workers=workers) for workers in (1, 2)]
    assert pages[0] == pages[1]


def test_a_single_model_and_case_make_a_report(write_page, write_figures, tmp_path):
    page = write_page(write_figures(names=("only",), models=("first",)), tmp_path / "report", workers=1)
    assert "1 model · 1 case · 1 patient" in page


def test_a_damaged_image_is_named(write_page, write_figures, tmp_path):
    figures = write_figures()
    path = figures.results.cases[0].images[0]
    path.write_bytes(b"not an image")
    with pytest.raises(InputFileError, match=path.name):
        write_page(figures, tmp_path / "report", workers=1)
    assert not (tmp_path / "report" / "report.html").exists()


def test_a_model_whose_cases_all_have_probabilities_has_a_curve(
    write_page, write_figures, tmp_path, monkeypatch
):
    asked = []

    def froc_of(cases, *, model_folder, workers):
        asked.append((model_folder, [case.name for case in cases]))
        return Froc(np.array([0.2, 0.5]), np.array([0.9, 0.8]), np.array([4.0, 1.0]))

    monkeypatch.setattr("sgnet_nnunet.evaluation.froc.froc_of", froc_of)
    figures = write_figures(names=("a", "b"), images=False)
    results = figures.results
    models = tuple(replace(model, folder=tmp_path / model.name) for model in results.models)
    cases = tuple(
        replace(
            case, probabilities=None if (case.model, case.name) == ("second", "b") else tmp_path / "p.npz"
        )
        for case in results.cases
    )
    page = write_page(
        replace(figures, results=replace(results, models=models, cases=cases)), tmp_path / "report", workers=1
    )
    assert asked == [(tmp_path / "first", ["a", "b"])]
    assert (tmp_path / "report" / "plots" / "froc.png").is_file()
    assert "There is no FROC curve" not in page


def test_gates_are_drawn_only_if_they_are_wanted(write_page, write_figures, tmp_path, monkeypatch):
    figures = write_figures(names=("a",), images=False)
    folder = tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres"
    models = tuple(replace(model, folder=folder) for model in figures.results.models)
    figures = replace(figures, results=replace(figures.results, models=models))
    page = write_page(figures, tmp_path / "report", workers=1, gates=False)
    assert "The gates of" not in page
