import re

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.report.build import write_report
from sgnet_nnunet.results.case import Target

HOSTILE = """A & B"<img src=x onerror=alert(1)>'"""


def page_of(figures, folder, **options):
    write_report(figures, folder, workers=1, **options)
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "report").mkdir()
    return tmp_path / "report"


def test_a_report_is_a_page_and_its_plots(write_figures, folder):
    page_of(write_figures(), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["plots", "report.html"]
    assert {"metrics.png", "lesion_size.png", "precision_recall.png"} == {
        path.name for path in (folder / "plots").iterdir()
    }


def test_the_page_asks_for_no_other_file(write_figures, folder):
    page = page_of(write_figures(), folder)
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_names_are_escaped(write_figures, folder):
    page = page_of(write_figures(models=(HOSTILE, "second"), images=False), folder)
    assert HOSTILE not in page
    assert "<img src=x" not in page
    assert "A &amp; B&#34;&lt;img" in page


def test_missing_predictions_are_named(write_figures, folder):
    page = page_of(write_figures(missing=(("second", "b"),)), folder)
    assert "1 prediction of second is missing" in page
    assert "no prediction" in page


def test_masks_without_images_are_drawn(write_figures, folder):
    page = page_of(write_figures(images=False), folder)
    assert page.count("data:image/webp;base64,") == 3 + 2 * 3


def test_every_label_has_its_own_tables_and_plots(write_figures, folder):
    targets = (Target(name="whole tumour", values=(1,)), Target(name="core", values=(2,)))
    page = page_of(write_figures(targets=targets, images=False), folder)
    assert 'id="label-1-table"' in page
    assert 'id="label-2-table"' in page
    assert (folder / "plots" / "2_metrics.png").is_file()


def test_the_same_figures_give_the_same_page(write_figures, folder):
    figures = write_figures()
    assert page_of(figures, folder) == page_of(figures, folder)


def test_a_single_model_and_case_make_a_report(write_figures, folder):
    page = page_of(write_figures(names=("only",), models=("first",)), folder)
    assert "1 model · 1 case · 1 patient" in page


def test_several_processes_draw_the_same(write_figures, folder):
    figures = write_figures(names=tuple("abcdef"), images=False)
    first = page_of(figures, folder)
    write_report(figures, folder, workers=2)
    assert (folder / "report.html").read_text(encoding="utf-8") == first


def test_a_damaged_image_is_named(write_figures, folder):
    figures = write_figures()
    path = figures.results.cases[0].images[0]
    path.write_bytes(b"not an image")
    with pytest.raises(InputFileError, match=path.name):
        write_report(figures, folder, workers=1)
    assert not (folder / "report.html").exists()
