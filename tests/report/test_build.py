import re

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.report.build import write_report
from sgnet_nnunet.results.case import Target


def page_of(figures, folder, **options):
    folder.mkdir(exist_ok=True)
    write_report(figures, folder, **options)
    return (folder / "report.html").read_text(encoding="utf-8")


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


def test_masks_without_images_are_drawn_for_every_label(write_figures, tmp_path):
    targets = (Target(name="whole tumour", values=(1,)), Target(name="core", values=(2,)))
    page = page_of(write_figures(targets=targets, images=False), tmp_path / "report", workers=1)
    # A thumbnail for each case and label, and the large ones of the label that has a Dice.
    assert page.count("data:image/webp;base64,") == 2 * 3 + 2 * 3
    assert 'id="label-2-table"' in page
    assert (tmp_path / "report" / "plots" / "2_metrics.png").is_file()
    assert not (tmp_path / "report" / "viewer").exists()


def test_the_same_figures_give_the_same_page_with_any_number_of_processes(write_figures, tmp_path):
    figures = write_figures(names=tuple("abcdef"), images=False)
    pages = [page_of(figures, tmp_path / f"report{workers}", workers=workers) for workers in (1, 2)]
    assert pages[0] == pages[1]


def test_a_single_model_and_case_make_a_report(write_figures, tmp_path):
    page = page_of(write_figures(names=("only",), models=("first",)), tmp_path / "report", workers=1)
    assert "1 model · 1 case · 1 patient" in page


def test_a_damaged_image_is_named(write_figures, tmp_path):
    figures = write_figures()
    path = figures.results.cases[0].images[0]
    path.write_bytes(b"not an image")
    with pytest.raises(InputFileError, match=path.name):
        page_of(figures, tmp_path / "report", workers=1)
    assert not (tmp_path / "report" / "report.html").exists()
