"""The report: a folder of tables, plots and one page that needs no other file."""

import logging
import os
import re
from base64 import b64encode
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.comparison import Comparison, compare
from sgnet_nnunet.evaluation.measurement import Measurements, count_of
from sgnet_nnunet.evaluation.registry import Metric
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.files import output_folder, write_text
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.report.case_pictures import CaseJob, CasePictures, choose, draw_case, gates_of, no_pictures
from sgnet_nnunet.report.figures import (
    CSS_PIXELS_PER_INCH,
    REFERENCE_COLOUR,
    Plot,
    breakable,
    colours_of,
    plots_of,
    save,
)
from sgnet_nnunet.report.slices import Picture, attempt
from sgnet_nnunet.report.tables import NOTHING, number, table_to_html, tables_of, write_csv, write_summary
from sgnet_nnunet.report.viewer import render, viewer_of_results

if TYPE_CHECKING:
    from sgnet_nnunet.evaluation.calibration import Reliability
    from sgnet_nnunet.evaluation.froc import Froc

logger = logging.getLogger(__name__)

FEW_CASES = 4  # drawn faster than a second process starts
MM3_PER_ML = 1000


def write_report(
    source: Comparison | pd.DataFrame,
    folder: Path,
    *,
    measurements: Measurements | None = None,
    viewer: bool = False,
    gates: bool = True,
    workers: int | None = None,
) -> None:
    """Write a report: CSV, JSON, Markdown and LaTeX tables, plots and `report.html`.

    The folder is replaced as a whole once all is written. A picture that cannot be drawn is a warning,
    and the page says why.

    Args:
        source: A comparison, or a table of cases as `evaluate` returns it.
        folder: Made if missing; else it must be empty or hold an earlier report.
        measurements: The measured tables and masks; without them there are no pictures of cases and no
            table of lesions.
        viewer: Whether to add the 3D viewer, which holds every case's images and masks.
        gates: Whether to draw the gates of the cases that are shown enlarged: seconds for each on a CPU.
        workers: Processes, each with one case in memory; as many as there are processors by default.

    Raises:
        SGNetError: If the folder holds anything else, or cannot be written.
    """
    if isinstance(source, pd.DataFrame):
        comparison, per_case = compare(source), source
    else:
        comparison, per_case = source, pd.DataFrame() if measurements is None else measurements.per_case
    with output_folder(folder) as partial_folder:
        if not per_case.empty:
            write_csv(per_case, partial_folder / "per_case.csv")
        if measurements is not None:
            write_csv(measurements.per_lesion, partial_folder / "per_lesion.csv")
        write_summary(comparison, partial_folder)
        page = _Page(comparison, per_case, measurements, partial_folder, workers or os.cpu_count() or 1)
        write_text(partial_folder / "report.html", page.draw(viewer=viewer, gates=gates))


@dataclass
class _Page:
    """The page of one report, and its pictures."""

    comparison: Comparison
    per_case: pd.DataFrame
    measurements: Measurements | None
    folder: Path
    workers: int

    def __post_init__(self) -> None:
        self.colours = colours_of(self.comparison.models)
        drawn = self.measurements is not None and "dice" in self.per_case
        self.choices = choose(self.comparison, self.per_case) if drawn else ()
        self.curves: dict[str, Froc] = {}
        self.reliability: dict[str, dict[str, Reliability]] = {}

    def draw(self, *, viewer: bool, gates: bool) -> str:
        """Draw everything and return the page."""
        of_cases: dict[str, Any] = {"pictures": {}, "gates": {}, "no_curves": [], "targets": []}
        if self.measurements is not None:
            results = self.measurements.results
            self.curves, problems = _froc(results, workers=self.workers)
            found = {name: _reliability(results, name, each) for name, each in self.curves.items()}
            self.reliability = {name: each for name, each in found.items() if each}
            if viewer:
                viewer_of_results(results, self.folder / "viewer", colours=self.colours)
            of_cases = {
                "pictures": self._draw_cases(results, viewer=viewer),
                "gates": gates_of(results, self.choices if gates else (), colours=self.colours),
                "no_curves": problems,
                "targets": [(target.name, _values(target)) for target in results.targets],
            }
        for (model, case), picture in of_cases["gates"].items():
            _warn(f"gates of {model} on {case}", picture.problem)
        (self.folder / "plots").mkdir()
        return render(
            "report.html",
            comparison=self.comparison,
            version=__version__,
            scope=_scope(self.per_case),
            sections=list(starmap(self._section, enumerate(self.comparison.labels, start=1))),
            colours=self.colours,
            reference_colour=REFERENCE_COLOUR,
            better=_better,
            table=partial(table_to_html, escape=breakable),
            uri=_uri,
            viewer=viewer and self.measurements is not None,
            **of_cases,
        )

    def _section(self, place: int, label: str) -> dict[str, Any]:
        prefix = f"{place}_" if len(self.comparison.labels) > 1 else ""
        plots = []
        lesions = None if self.measurements is None else self.measurements.per_lesion
        for plot in plots_of(
            self.comparison,
            self.per_case,
            label=label,
            per_lesion=lesions,
            froc=self.curves,
            reliability=self.reliability,
        ):
            path = self.folder / "plots" / f"{prefix}{plot.name}.png"
            plots.append((plot, attempt(partial(_draw_plot, plot, path))))
            _warn(plot.title, plots[-1][1].problem)
        return {
            "id": f"label-{place}",
            "label": label,
            "tables": tables_of(self.comparison, label=label),
            "plots": plots,
            "choices": [choice for choice in self.choices if choice.label == label],
            "cases": case_rows(self.per_case, label=label),
        }

    def _draw_cases(self, results: Results, *, viewer: bool) -> dict[str, CasePictures]:
        answers: dict[str, list[PredictedCase]] = {}
        for case in results.cases:
            answers.setdefault(case.name, []).append(case)
        jobs = [
            CaseJob(
                answers=tuple(found),
                results=replace(results, cases=()),
                colours=self.colours,
                large=tuple((choice.model, choice.label) for choice in self.choices if choice.case == name),
                viewer=self.folder / "viewer" if viewer else None,
            )
            for name, found in answers.items()
        ]
        drawn: dict[str, CasePictures] = {}
        workers = self.workers if len(jobs) > FEW_CASES else 1
        try:
            drawn |= ((job.name, pictures) for job, pictures in run_jobs(draw_case, jobs, workers=workers))
        except SGNetError as error:  # a worker process was killed
            drawn |= {job.name: no_pictures(job, error) for job in jobs if job.name not in drawn}
        for name, pictures in drawn.items():
            for problem in pictures.problems:
                _warn(name, problem)
        return drawn


def _warn(what: str, problem: str) -> None:
    if problem:
        logger.warning("%s: no picture: %s", what, problem)


def _scope(per_case: pd.DataFrame) -> str:
    if per_case.empty:
        return ""
    return " · ".join(count_of(per_case[noun].nunique(), noun) for noun in ("case", "patient"))


def _draw_plot(plot: Plot, path: Path) -> Picture:
    figure = plot.draw()
    save(figure, path)
    width = round(figure.get_figwidth() * CSS_PIXELS_PER_INCH)
    return Picture(content=path.read_bytes(), width=width)


def _froc(results: Results, *, workers: int) -> "tuple[dict[str, Froc], list[str]]":
    """Return the curve of each model whose cases all have probabilities, and what kept others from one."""
    curves: dict[str, Froc] = {}
    problems = []
    for model in results.models:
        cases = [case for case in results.cases if case.model == model.name]
        if model.folder is None or any(case.probabilities is None for case in cases):
            continue
        # nnU-Net, which reads the probabilities, takes seconds to import.
        from sgnet_nnunet.evaluation.froc import froc_of  # noqa: PLC0415

        try:
            if curve := froc_of(cases, model_folder=model.folder, workers=workers):
                curves[model.name] = curve
        except (SGNetError, OSError, ValueError) as error:
            problems.append(f"FROC curve of {model.name}: no picture: {error}")
            logger.warning("%s", problems[-1])
    return curves, problems


def _reliability(results: Results, model: str, curve: "Froc") -> "dict[str, Reliability]":
    """Return how the confidences of a model's lesions agree with the truth, as far as there are enough."""
    from sgnet_nnunet.evaluation.calibration import cross_fitted, reliability_of  # noqa: PLC0415 - as above
    from sgnet_nnunet.evaluation.tuning import groups_of  # noqa: PLC0415

    if (lesions := curve.lesions) is None:
        return {}
    groups, patients = groups_of([case for case in results.cases if case.model == model])
    confidences = {
        "mean probability": lesions.mean_probability,
        "calibrated on other patients": cross_fitted(lesions, groups, patients),
    }
    found = {name: reliability_of(values, lesions.is_true) for name, values in confidences.items()}
    return {name: each for name, each in found.items() if each is not None}


def _uri(picture: Picture) -> str:
    kind = "png" if picture.content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{b64encode(picture.content).decode('ascii')}"


def case_rows(per_case: pd.DataFrame, *, label: str) -> list[dict[str, Any]]:
    """Return a row for each case and, in its entry `answers`, a cell for each model.

    A cell holds the Dice as text and as a share (None without one), and `remarks`: what is empty or
    missing, lesions missed and false positives.
    """
    if per_case.empty:
        return []
    absent = {"text": NOTHING, "share": None, "remarks": "not evaluated"}
    models = per_case["model"].unique()
    rows = []
    for name, found in per_case[per_case["label"] == label].groupby("case"):
        own = {row["model"]: row for row in found.to_dict("records")}
        first = next(iter(own.values()))
        rows.append(
            {
                "name": name,
                "origin": f"patient {first['patient']}, fold {first['fold']}".removesuffix(", fold "),
                "lesions": number(first.get("reference_lesions", nan), 0),
                "volume": number(first.get("reference_volume_mm3", nan) / MM3_PER_ML, 2),
                "dice": number(float(found.get("dice", pd.Series([nan])).mean()), 3),
                "answers": {model: _answer(own[model]) if model in own else absent for model in models},
            }
        )
    return rows


def _answer(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    dice, state = float(row.get("dice", nan)), str(row["empty"])
    lesions, false = (float(row.get(name, nan)) for name in ("reference_lesions", "false_positives"))
    missed = lesions - float(row.get("detected_lesions", nan))
    remarks = [
        "no prediction" if row["missing"] else "",
        "" if row["missing"] or not state else "both masks empty" if state == "both" else f"{state} empty",
        f"missed {missed:.0f} of {lesions:.0f}" if missed > 0 else "",
        f"{false:.0f} false" if false > 0 else "",
    ]
    return {
        "text": number(dice, 3),
        "share": dice if isfinite(dice) else None,
        "remarks": "; ".join(remark for remark in remarks if remark),
    }


def _values(target: Target) -> str:
    """Return the values of a target as text, runs of them shortened."""
    several = len(target.values) > 1
    run = several and target.values[-1] - target.values[0] == len(target.values) - 1
    values = f"{target.values[0]} to {target.values[-1]}" if run else ", ".join(map(str, target.values))
    return f"value{'s' if several else ''} {values}"


def _better(metric: Metric) -> str:
    """Return the unit and the direction of a metric as the end of its definition."""
    unit = f", in {re.sub('3$', '³', metric.unit)}" if metric.unit.startswith("mm") else ""
    direction = {None: "", True: "; higher is better", False: "; lower is better"}
    return unit + direction[metric.higher_is_better]
