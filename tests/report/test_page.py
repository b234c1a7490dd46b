import re
from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.comparison import compare
from sgnet_nnunet.evaluation.froc import Candidates, Froc
from sgnet_nnunet.evaluation.results import Target
from sgnet_nnunet.files import output_folder
from sgnet_nnunet.report.page import write_report

SUMMARY = ("summary.json", "summary.md", "summary.tex")


@pytest.fixture(scope="module")
def page(report):
    return (report / "report.html").read_text(encoding="utf-8")


def test_a_report_is_a_page_its_plots_and_a_viewer(report):
    names = {path.name for path in report.iterdir()}
    tables = {"per_case.csv", "per_lesion.csv", *SUMMARY}
    assert names == {".sgnet_report.json", "plots", "report.html", "viewer"} | tables
    plots = {path.name for path in (report / "plots").iterdir()}
    assert plots == {"differences.png", "metrics.png", "lesion_size.png", "precision_recall.png"}
    assert {path.name for path in (report / "viewer" / "cases").iterdir()} == {"a.js", "b.js", "c & d.js"}


def test_the_page_asks_for_no_other_file(page):
    sources = re.findall(r"src=\"([^\"]*)\"", page)
    assert len(sources) == 4 + 3 + 2 * 3
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


def test_a_missing_prediction_is_reported(page):
    assert "no prediction" in page


@pytest.mark.slow
def test_masks_without_images_are_drawn_for_every_label(write_page, write_figures, tmp_path):
    targets = (Target(name="whole tumour", values=(1,)), Target(name="core", values=(2,)))
    page = write_page(write_figures(targets=targets, images=False), tmp_path / "report", workers=1)
    # A thumbnail for each case and label, and the large ones of the label that has a Dice.
    assert page.count("data:image/webp;base64,") == 2 * 3 + 2 * 3
    assert 'id="label-2-table"' in page
    assert (tmp_path / "report" / "plots" / "2_metrics.png").is_file()
    assert not (tmp_path / "report" / "viewer").exists()


@pytest.mark.slow
def test_the_same_figures_give_the_same_page_with_any_number_of_processes(
    write_page, write_figures, tmp_path
):
    figures = write_figures(names=tuple("abcdef"), images=False)
    pages = [write_page(figures, tmp_path / f"report{workers}", workers=workers) for workers in (1, 2)]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_a_single_model_and_case_make_a_report(write_page, write_figures, tmp_path):
    page = write_page(write_figures(names=("only",), models=("first",)), tmp_path / "report", workers=1)
    assert "1 model · 1 case · 1 patient" in page


@pytest.mark.slow
def test_a_damaged_image_is_a_warning_and_a_note(write_page, write_figures, tmp_path, caplog):
    figures = write_figures(models=("first",))
    figures.results.cases[0].images[0].write_bytes(b"not an image")
    page = write_page(figures, tmp_path / "report", workers=1)
    (warning,) = caplog.messages
    assert warning.startswith("a: no picture: channel 0: ")
    assert "no picture: channel 0: " in page
    assert page.count("data:image/webp;base64,") == 3 + 3


@pytest.mark.slow
def test_a_plot_that_fails_is_a_warning_and_a_note(write_page, write_figures, tmp_path, caplog, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no  axes")

    monkeypatch.setattr("sgnet_nnunet.report.figures.box_plots", fail)
    page = write_page(write_figures(images=False), tmp_path / "report", workers=1)
    assert "no picture: no axes" in page
    assert "Headline metrics of every case: no picture: no axes" in caplog.messages
    assert (tmp_path / "report" / "plots" / "lesion_size.png").is_file()


@pytest.mark.slow
def test_a_broken_checkpoint_costs_the_gates_only(write_page, write_figures, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.inference.gate_maps.has_gates", lambda *_, **__: True)
    folder = tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"not weights")
    figures = write_figures(names=("a",), models=("first",))
    (model,) = figures.results.models
    results = replace(figures.results, models=(replace(model, folder=folder),))
    page = write_page(replace(figures, results=results), tmp_path / "report", workers=1)
    assert "gates of first on a: no picture: " in caplog.text
    assert "no picture: " in page
    assert (tmp_path / "report" / "summary.json").is_file()


@pytest.mark.slow
def test_a_killed_worker_costs_the_pictures_it_would_have_drawn(
    write_page, write_figures, tmp_path, monkeypatch
):
    def run_jobs(function, jobs, *, workers):
        yield jobs[0], function(jobs[0])
        raise SGNetError("a worker process was killed")

    monkeypatch.setattr("sgnet_nnunet.report.page.run_jobs", run_jobs)
    page = write_page(write_figures(models=("first",)), tmp_path / "report")
    assert page.count("no picture: a worker process was killed") >= 2
    assert "data:image/webp" in page


@pytest.mark.slow
def test_a_table_of_cases_is_enough_for_a_report(write_figures, tmp_path):
    write_report(write_figures(images=False).per_case, tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "2 models · 3 cases" in page
    assert "data:image/webp" not in page
    assert (tmp_path / "report" / "per_case.csv").is_file()
    assert not (tmp_path / "report" / "per_lesion.csv").exists()


def test_a_table_without_dice_is_enough(rows, tmp_path):
    write_report(rows(nsd_1mm=[0.5, 0.6]), tmp_path / "report")
    assert "2 cases" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_comparison_is_enough_for_the_tables(write_figures, tmp_path):
    write_report(compare(write_figures(images=False).per_case, resamples=50), tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {".sgnet_report.json", "plots", "report.html", *SUMMARY}


@pytest.mark.slow
def test_a_model_whose_cases_all_have_probabilities_has_a_curve(
    write_page, write_figures, tmp_path, monkeypatch
):
    asked = []

    def froc_of(cases, *, model_folder, workers):
        asked.append((model_folder, [case.name for case in cases]))
        place, true = np.arange(8) % 2, np.arange(8) < 4
        lesions = Candidates(place, np.zeros_like(place), np.ones(8), 0.4 + 0.07 * np.arange(8), true)
        return Froc(np.array([0.2, 0.5]), np.array([0.9, 0.8]), np.array([4.0, 1.0]), lesions=lesions)

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
    assert (tmp_path / "report" / "plots" / "reliability.png").is_file()
    assert "No FROC curve" not in page


@pytest.mark.slow
def test_a_curve_that_fails_is_a_warning_and_a_note(write_page, write_figures, tmp_path, caplog):
    figures = write_figures(names=("a",), models=("first",), images=False)
    (model,), (case,) = figures.results.models, figures.results.cases
    (tmp_path / "p.npz").write_bytes(b"not probabilities")
    results = replace(
        figures.results,
        models=(replace(model, folder=tmp_path),),
        cases=(replace(case, probabilities=tmp_path / "p.npz"),),
    )
    page = write_page(replace(figures, results=results), tmp_path / "report", workers=1)
    assert "FROC curve of first: no picture: " in page
    assert "FROC curve of first: no picture: " in caplog.text


@pytest.mark.slow
def test_gates_are_drawn_only_if_they_are_requested(write_page, write_figures, tmp_path):
    figures = write_figures(names=("a",), models=("first",), images=False)
    folder = tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres"
    models = tuple(replace(model, folder=folder) for model in figures.results.models)
    figures = replace(figures, results=replace(figures.results, models=models))
    assert "no picture" not in write_page(figures, tmp_path / "report", workers=1, gates=False)


def write(folder, **files):
    with output_folder(folder) as partial:
        for name, text in files.items():
            (partial / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def test_report_appears_in_a_folder_that_was_not_there(tmp_path):
    write(tmp_path / "a/b/report", one="1")
    assert content(tmp_path / "a/b/report") == {"one": "1"}
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["report"]


def test_next_report_takes_the_place_of_the_last(tmp_path):
    write(tmp_path / "report", one="1", two="2")
    write(tmp_path / "report", one="new")
    assert content(tmp_path / "report") == {"one": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_empty_folder_is_used(tmp_path):
    (tmp_path / "report").mkdir()
    write(tmp_path / "report", one="1")
    assert content(tmp_path / "report") == {"one": "1"}


@pytest.mark.parametrize("error", [SGNetError("bad mask"), KeyboardInterrupt(), ValueError("bug")])
def test_failure_leaves_nothing_behind_and_the_last_report_as_it_was(tmp_path, error):
    write(tmp_path / "report", one="1")

    def fail():
        with output_folder(tmp_path / "report") as partial:
            (partial / "one").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert content(tmp_path / "report") == {"one": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("before", [False, True])
def test_folder_with_a_file_of_somebody_else_is_refused(tmp_path, before):
    if before:
        write(tmp_path / "report", one="1")
    (tmp_path / "report").mkdir(exist_ok=True)
    (tmp_path / "report/thesis.docx").write_text("years of work")
    with pytest.raises(SGNetError, match=r"thesis\.docx: was not written by an earlier run; move it"):
        write(tmp_path / "report", one="new")
    assert (tmp_path / "report/thesis.docx").read_text() == "years of work"


def test_file_that_comes_while_a_report_is_made_is_not_lost(tmp_path):
    write(tmp_path / "report", one="1")

    def disturbed():
        with output_folder(tmp_path / "report"):
            (tmp_path / "report/notes").write_text("mine")

    with pytest.raises(SGNetError, match="notes: was not written by an earlier run"):
        disturbed()
    assert content(tmp_path / "report") == {"one": "1", "notes": "mine"}


def test_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(SGNetError, match="is no folder"):
        write(tmp_path / "report", one="1")


def test_damaged_list_of_contents_is_refused(tmp_path):
    write(tmp_path / "report", one="1")
    (tmp_path / "report/.sgnet_report.json").write_text("{")
    with pytest.raises(SGNetError, match="is damaged"):
        write(tmp_path / "report", one="new")


def test_remains_of_a_killed_run_are_replaced(tmp_path):
    (tmp_path / ".partial-report").mkdir()
    (tmp_path / ".partial-report/half").write_text("")
    write(tmp_path / "report", one="1")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SGNetError, match="file: is no folder"):
        write(tmp_path / "file/report", one="1")
