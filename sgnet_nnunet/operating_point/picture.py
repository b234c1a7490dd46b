"""The FROC curve of a tuning, drawn."""

from pathlib import Path

from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.operating_point.counts import Tally
from sgnet_nnunet.operating_point.froc import Froc
from sgnet_nnunet.operating_point.tuning import Tuning

LINEAR_UP_TO = 1.0
"""False positives per case from which on the axis is logarithmic: it has to show both 0 and 50."""


def draw_tuning(tuning: Tuning, path: Path) -> None:
    """Draw a tuning's FROC curves with the default and the chosen point, as PNG.

    Args:
        tuning: The tuning.
        path: File to write, atomically.
    """
    # pyplot would open a window system; the object interface draws without one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import ScalarFormatter  # noqa: PLC0415

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for froc, colour in zip(tuning.frocs, ("#7a8793", "#1f77b4"), strict=False):
        axes.plot(
            froc.false_positives_per_case,
            froc.sensitivity,
            marker=".",
            color=colour,
            label=_name(froc),
        )
    for tally, marker, colour, label in (
        (tuning.default, "s", "#111111", "default"),
        (tuning.resubstitution, "*", "#d62728", f"chosen: {tuning.point}"),
        (tuning.cross_fitted, "D", "#2ca02c", "cross-fitted: what to expect of it"),
    ):
        axes.plot(
            *_place(tally),
            marker,
            color=colour,
            markersize=12 if marker == "*" else 7,
            label=label,
            clip_on=False,
            zorder=3,
        )
    axes.set_xscale("symlog", linthresh=LINEAR_UP_TO)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false positives per case")
    axes.set_ylabel("lesion sensitivity")
    cases = f"{tuning.default.cases} cases of {tuning.patients} patients"
    axes.set_title(f"{tuning.model}\n{cases}, {tuning.default.lesions} lesions", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120)


def _place(tally: Tally) -> tuple[float, float]:
    return float(tally.false_positives_per_case), float(tally.sensitivity)


def _name(froc: Froc) -> str:
    if not froc.smallest_lesion_mm3:
        return "every threshold, nothing removed"
    return f"every threshold, below {froc.smallest_lesion_mm3:g} mm3 removed"
