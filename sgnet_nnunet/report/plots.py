"""The plots of a comparison, one figure a question, and what each shows in a sentence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.comparison.rows import rows_of
from sgnet_nnunet.report.box_plots import box_plots
from sgnet_nnunet.report.canvas import Look
from sgnet_nnunet.report.froc_plot import froc_plot
from sgnet_nnunet.report.overlap_plot import overlap_plot
from sgnet_nnunet.report.palette import colours_of, markers_of
from sgnet_nnunet.report.size_plot import size_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgnet_nnunet.operating_point.froc import Froc


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot.

    Attributes:
        name: Stem of its file.
        title: What it shows.
        caption: How to read it.
        figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"


def plots_of(figures: Figures, *, label: str, froc: Mapping[str, "Froc"]) -> Iterator[Plot]:
    """Yield the plots of one label or region.

    Args:
        figures: What was measured.
        label: Name of the label or region.
        froc: The curve of each model that has one, by the model's name.
    """
    models = figures.results.models
    look = Look(colours=colours_of(models), markers=markers_of(models))
    rows = {model.name: rows_of(figures.per_case, model=model.name, label=label) for model in models}
    yield Plot(
        name="metrics",
        title="Every case, model by model",
        caption="Boxes: quartiles with the median; whiskers: up to 1.5 times the box; diamonds: means. "
        "A grey line joins one case's values.",
        figure=box_plots(rows, look=look),
    )
    lesions = figures.per_lesion[figures.per_lesion["label"] == label]
    yield Plot(
        name="lesion_size",
        title="Lesions found, by their diameter",
        caption="Lesions of all cases together; the diameter is that of the sphere of the lesion's volume. "
        "Bars: 95 % Wilson intervals, which take lesions as independent. Below: how many lesions there are.",
        figure=size_plot(_of_references(lesions), look=look),
    )
    yield Plot(
        name="precision_recall",
        title="Precision against recall",
        caption="A point is a case, the large one the mean; grey lines join points of equal Dice. "
        "Lower right: too much is drawn; upper left: too little.",
        figure=overlap_plot(rows, look=look),
    )
    if froc:
        yield Plot(
            name="froc",
            title="Lesions found against false positives (FROC)",
            caption="Over all thresholds on the probability, nothing removed; the large point is at 0.5. "
            "Lesions of all cases and of any label together.",
            figure=froc_plot(froc, look=look),
        )


def _of_references(lesions: pd.DataFrame) -> pd.DataFrame:
    return lesions[lesions["status"] != "false positive"]
