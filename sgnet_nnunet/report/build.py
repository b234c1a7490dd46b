"""A comparison's report: plots, one page that opens offline, and a 3D viewer."""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.io.atomic import write_text
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.report.canvas import save
from sgnet_nnunet.report.cases import CaseJob, CasePictures, draw_case
from sgnet_nnunet.report.choice import Choice, choose
from sgnet_nnunet.report.gates import gates_of
from sgnet_nnunet.report.page import Drawings, DrawnPlot, report_page
from sgnet_nnunet.report.palette import colours_of
from sgnet_nnunet.report.plots import plots_of
from sgnet_nnunet.report.viewer import write_viewer
from sgnet_nnunet.results.case import PredictedCase, Results

if TYPE_CHECKING:
    from sgnet_nnunet.operating_point.froc import Froc

FEW_CASES = 4
"""So few are drawn sooner than a second process has started."""


def write_report(
    figures: Figures,
    summary: Summary,
    folder: Path,
    *,
    viewer: bool = False,
    gates: bool = True,
    workers: int | None = None,
) -> None:
    """Write `report.html`, `plots/*.png` and, if wanted, `viewer/`.

    Args:
        figures: What was measured.
        summary: Its statistics.
        folder: An existing folder.
        viewer: Whether to add the 3D viewer, which holds every case's images and masks.
        gates: Whether to run gated networks on the cases that are shown large, to draw their gates:
            seconds for each on a CPU.
        workers: Processes, each with one case in memory; as many as there are processors by default.

    Raises:
        InputFileError: A mask or an image cannot be read.
    """
    results, workers = figures.results, workers or os.cpu_count() or 1
    colours = colours_of(results.models)
    choices = choose(figures)
    viewer_folder = folder / "viewer" if viewer else None
    if viewer_folder is not None:
        write_viewer(results, viewer_folder, colours=colours)
    drawings = Drawings(
        plots=_draw_plots(figures, folder / "plots", workers=workers),
        cases=_draw_cases(results, choices, colours=colours, viewer=viewer_folder, workers=workers),
        gates=gates_of(results, choices if gates else ()),
    )
    page = report_page(figures, summary, choices, drawings, colours=colours, viewer=viewer)
    write_text(folder / "report.html", page)


def _draw_cases(
    results: Results,
    choices: Sequence[Choice],
    *,
    colours: dict[str, str],
    viewer: Path | None,
    workers: int,
) -> dict[str, CasePictures]:
    answers: dict[str, list[PredictedCase]] = {}
    for case in results.cases:
        answers.setdefault(case.name, []).append(case)
    jobs = [
        CaseJob(
            answers=tuple(found),
            targets=results.targets,
            known_values=results.known_values,
            ignored_value=results.ignored_value,
            colours=colours,
            large=tuple((choice.model, choice.label) for choice in choices if choice.case == name),
            viewer=viewer,
        )
        for name, found in answers.items()
    ]
    workers = workers if len(jobs) > FEW_CASES else 1
    return {job.answers[0].name: pictures for job, pictures in run_jobs(draw_case, jobs, workers=workers)}


def _draw_plots(figures: Figures, folder: Path, *, workers: int) -> dict[str, list[DrawnPlot]]:
    folder.mkdir(exist_ok=True)
    curves = _froc(figures.results, workers=workers)
    drawn: dict[str, list[DrawnPlot]] = {}
    for place, target in enumerate(figures.results.targets, start=1):
        prefix = f"{place}_" if len(figures.results.targets) > 1 else ""
        drawn[target.name] = []
        for plot in plots_of(figures, label=target.name, froc=curves):
            path = folder / f"{prefix}{plot.name}.png"
            save(plot.figure, path)
            drawn[target.name].append(
                DrawnPlot(
                    name=plot.name,
                    title=plot.title,
                    caption=plot.caption,
                    base64=b64encode(path.read_bytes()).decode("ascii"),
                )
            )
    return drawn


def _froc(results: Results, *, workers: int) -> Mapping[str, "Froc"]:
    """Return the curve of each model whose cases all have probabilities."""
    curves: dict[str, Froc] = {}
    for model in results.models:
        cases = [case for case in results.cases if case.model == model.name]
        if model.folder is None or any(case.probabilities is None for case in cases):
            continue
        # nnU-Net, which reads the probabilities, takes seconds to import.
        from sgnet_nnunet.operating_point.froc import froc_of  # noqa: PLC0415

        curve = froc_of(cases, model_folder=model.folder, workers=workers)
        if curve is not None:
            curves[model.name] = curve
    return curves
