import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.evaluation.calibration import reliability_of
from sgnet_nnunet.evaluation.comparison import compare
from sgnet_nnunet.evaluation.froc import Froc
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.report.figures import (
    MODEL_COLOURS,
    MOST_BINS,
    REFERENCE_COLOUR,
    TALLEST,
    WIDEST,
    box_plots,
    breakable,
    lines_of,
    look_of,
    new_figure,
    parts_of,
    plots_of,
    rgb,
    save,
    short,
)

CURVE = Froc(np.array([0.2, 0.5, 0.8]), np.array([0.9, 0.8, 0.5]), np.array([4.0, 1.0, 0.1]))


def plots(figures, **options):
    comparison = compare(figures.per_case, resamples=50)
    found = plots_of(comparison, figures.per_case, label="tumour", per_lesion=figures.per_lesion, **options)
    return {plot.name: plot for plot in found}


@pytest.fixture
def figures(write_figures):
    return write_figures(images=False)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("SGNetNoGateTrainer", ["SGNet", "No", "Gate", "Trainer"]),
        (
            "nnUNetTrainer__nnUNetResEncPlans",
            ["nn", "UNet", "Trainer__", "nn", "UNet", "Res", "Enc", "Plans"],
        ),
        ("case_01", ["case_", "01"]),
        ("", []),
    ],
)
def test_a_name_is_cut_where_a_word_begins(name, parts):
    assert parts_of(name) == parts


def test_lines_are_no_wider_than_asked_and_keep_the_name_whole():
    name = "nnUNetTrainer__nnUNetResEncUNetMPlans"
    lines = lines_of(name, width=22).split("\n")
    assert "".join(lines) == name
    assert all(len(line) <= 22 for line in lines)


def test_a_name_is_escaped_for_html_and_for_matplotlib():
    assert breakable("a<b>_&") == "a&lt;b&gt;_<wbr>&amp;"
    assert breakable("0.5 to 0.6") == "0.5 to 0.6"
    assert short("a$b$") == r"a\$b\$"


@pytest.mark.parametrize("number", [1, 6, 11])
def test_each_of_many_models_has_a_colour_and_a_marker(number):
    look = look_of([Model(name=f"model {i}") for i in range(number)])
    assert len(look) == number
    for key in ("color", "marker"):
        assert len({style[key] for style in look.values()}) == min(number, len(MODEL_COLOURS))
    assert REFERENCE_COLOUR not in {style["color"] for style in look.values()}


def seen_without_red_green(colour):
    """Return a colour as a reader without the green (deutan) pigment sees it (Machado 2009)."""
    matrix = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    return np.array(matrix) @ rgb(colour)


def test_reference_and_prediction_differ_for_a_red_green_blind_reader():
    reference, prediction = map(seen_without_red_green, (REFERENCE_COLOUR, MODEL_COLOURS[0]))
    assert np.linalg.norm(reference - prediction) > 150


def test_only_what_was_measured_is_plotted(figures):
    assert set(plots(figures)) == {"differences", "metrics", "lesion_size", "precision_recall"}
    assert "froc" in plots(figures, froc={"second": CURVE})
    comparison = compare(figures.per_case, resamples=50)
    assert [plot.name for plot in plots_of(comparison, pd.DataFrame(), label="tumour")] == ["differences"]


def test_reliability_has_a_curve_for_each_model_and_kind_of_confidence(figures):
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=60)
    first = reliability_of(confidence, rng.uniform(size=60) < confidence)
    second = reliability_of(confidence[:7], np.ones(7, dtype=bool))
    found = {
        "first": {"mean probability": first, "calibrated": second},
        "second": {"mean probability": first},
    }
    (axes,) = plots(figures, reliability=found)["reliability"].draw().axes
    assert len(axes.get_legend().get_texts()) == 3
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 4
    assert "reliability" not in plots(figures)


def test_a_single_model_has_no_differences(write_figures):
    assert "differences" not in plots(write_figures(images=False, models=("first",)))


@pytest.mark.slow
def test_every_figure_is_of_bounded_size_and_the_same_each_time(figures, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for plot in plots(figures, froc={"first": CURVE}).values():
            figure = plot.draw()
            assert figure.get_figwidth() <= WIDEST
            save(figure, tmp_path / name / f"{plot.name}.png")
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(written) == 5
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_figure_is_never_larger_than_the_limits():
    figure, _ = new_figure(100, 1000)
    assert tuple(figure.get_size_inches()) == (WIDEST, TALLEST)


def test_the_plot_of_a_single_model_is_a_third_of_the_page(write_figures):
    figure = plots(write_figures(images=False, models=("first",)))["precision_recall"].draw()
    assert figure.get_figwidth() <= WIDEST / 3


def test_axes_name_their_metric_and_unit(figures):
    drawn = plots(figures, froc={"first": CURVE})
    labels = {name: [axes.get_xlabel() for axes in plot.draw().axes] for name, plot in drawn.items()}
    for name in ("metrics", "differences"):
        assert "HD95 directed (mm) – lower is better" in labels[name]
    assert "diameter of the reference lesion (mm)" in labels["lesion_size"]
    assert labels["froc"] == ["false positives per case"]


def test_the_forest_plot_shows_difference_and_interval(figures):
    comparison = compare(figures.per_case, resamples=50)
    axes = plots(figures)["differences"].draw().axes[0]
    row = comparison.differences.query("metric == 'dice'").iloc[0]
    zero, interval, mean = axes.lines
    assert set(zero.get_xdata()) == {0}
    assert list(interval.get_xdata()) == [row["low"], row["high"]]
    assert list(mean.get_xdata()) == [row["mean"]]


def test_a_metric_without_values_leaves_its_panel_empty(figures):
    table = figures.per_case.assign(dice=np.nan)
    comparison = compare(table, resamples=50)
    rows = {model: table[table["model"] == model] for model in ("first", "second")}
    assert not box_plots(rows, comparison.headline, look=look_of(comparison.models)).axes[0].patches


def test_sensitivity_by_size_counts_every_lesion_of_the_reference_once(figures):
    counts = plots(figures)["lesion_size"].draw().axes[2]
    assert sum(bar.get_height() for bar in counts.patches) == 3 * 2


def test_a_lesion_of_kilometres_needs_no_bin_for_each_of_its_millimetres(figures):
    figures.per_lesion["diameter_mm"] *= 1e6
    plot = plots(figures)["lesion_size"].draw()
    assert len(plot.axes[3].patches) <= MOST_BINS


def test_without_any_lesion_there_is_a_plot(figures):
    comparison = compare(figures.per_case, resamples=50)
    nothing = figures.per_lesion.head(0)
    *_, plot = plots_of(comparison, pd.DataFrame(), label="tumour", per_lesion=nothing)
    assert plot.name == "lesion_size"
    assert plot.draw().axes


def test_dice_lines_are_where_precision_and_recall_give_that_dice(figures):
    axes = plots(figures)["precision_recall"].draw().axes[0]
    recall, precision = axes.lines[0].get_data()
    np.testing.assert_allclose(2 * precision * recall / (precision + recall), 0.2)
