from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.evaluation.froc import Froc
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import rows_of
from sgnet_nnunet.report.figures import (
    MODEL_COLOURS,
    Look,
    box_plots,
    colours_of,
    markers_of,
    plots_of,
    save,
    short,
    size_plot,
)

CURVE = Froc(np.array([0.2, 0.5, 0.8]), np.array([0.9, 0.8, 0.5]), np.array([4.0, 1.0, 0.1]))


def plots(figures, froc=None):
    return {plot.name: plot for plot in plots_of(figures, label="tumour", froc=froc or {})}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_curve_is_plotted_only_where_there_are_probabilities(write_figures):
    figures = write_figures(images=False)
    assert set(plots(figures)) == {"metrics", "lesion_size", "precision_recall"}
    assert "froc" in plots(figures, {"second": CURVE})


def test_every_figure_can_be_written_and_is_the_same_each_time(write_figures, tmp_path):
    figures = write_figures(images=False)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for plot in plots(figures, {"first": CURVE}).values():
            save(plot.figure, tmp_path / name / f"{plot.name}.png")
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(written) == 4
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_axes_name_their_units(write_figures):
    drawn = plots(write_figures(images=False), {"first": CURVE})
    labels = {name: [axes.get_xlabel() for axes in plot.figure.axes] for name, plot in drawn.items()}
    assert any(label.startswith("HD95 directed (mm)") for label in labels["metrics"])
    assert "diameter of the reference's lesion (mm)" in labels["lesion_size"]
    assert labels["froc"] == ["false positives per case"]


def test_a_metric_without_values_leaves_its_panel_empty(write_figures):
    figures = write_figures(images=False)
    table = figures.per_case.assign(dice=np.nan)
    rows = {model: rows_of(table, model=model, label="tumour") for model in ("first", "second")}
    look = Look(colours=colours_of(figures.results.models), markers=markers_of(figures.results.models))
    assert box_plots(rows, look=look).axes[0].lines


def test_sensitivity_by_size_counts_every_lesion_of_the_reference_once(write_figures):
    figures = write_figures(images=False)
    lesions = figures.per_lesion[figures.per_lesion["status"] != "false positive"]
    look = Look(colours=colours_of(figures.results.models), markers=markers_of(figures.results.models))
    counts = size_plot(lesions, look=look).axes[2]
    assert sum(bar.get_height() for bar in counts.patches) == 3 * 2


def test_without_any_lesion_there_is_a_plot(write_figures):
    figures = write_figures(images=False)
    empty = replace(figures, per_lesion=figures.per_lesion.head(0))
    assert "lesion_size" in plots(empty)


def test_dice_lines_are_where_precision_and_recall_give_that_dice(write_figures):
    axes = plots(write_figures(images=False))["precision_recall"].figure.axes[0]
    recall, precision = axes.lines[0].get_data()
    np.testing.assert_allclose(2 * precision * recall / (precision + recall), 0.2)


@pytest.mark.parametrize("number", [1, 6, 11])
def test_each_of_many_models_has_a_colour_and_a_marker(number):
    models = [Model(name=f"model {i}") for i in range(number)]
    assert list(colours_of(models)) == [model.name for model in models]
    assert len(set(colours_of(models).values())) == min(number, len(MODEL_COLOURS))
    assert len(set(markers_of(models).values())) == min(number, len(MODEL_COLOURS))


def test_a_dollar_in_a_name_is_not_mathematics():
    assert short("a$b$") == r"a\$b\$"
