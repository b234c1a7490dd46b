"""What `sgnet evaluate` and `sgnet compare` have in common: from results to a report's folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
from rich.markup import escape

from sgnet_nnunet.cli.console import err, out, progress_bar
from sgnet_nnunet.results.case import Results


class Preset(str, Enum):
    """The scores of a BraTS challenge."""

    BRATS2023 = "brats2023"
    BRATS2026 = "brats2026"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How to make a report.

    Attributes:
        folder: Where to.
        presets: BraTS presets whose scores to add.
        workers: Processes that measure.
        seed: Seed of the bootstrap.
        viewer: Whether to add the page with the 3D viewer.
        gates: Whether to run gated networks on the cases that are shown large, to draw their gates.
    """

    folder: Path
    presets: Sequence[Preset] = ()
    workers: int = 1
    seed: int = 0
    viewer: bool = False
    gates: bool = True


def make_report(
    find_results: Callable[[], Results],
    options: ReportOptions,
    *,
    complete: Callable[[Results], Results] | None = None,
) -> None:
    """Measure, test and write a report, all of it or nothing, and print what a reader must know.

    Args:
        find_results: Finds the masks; called once the folder is known to be usable.
        options: How to make the report.
        complete: Adds to the results what takes long to find out; called once all masks are measured.

    Raises:
        SGNetError: If the folder or a mask cannot be used.
    """
    # pandas, matplotlib and statsmodels take a second or more to import.
    from sgnet_nnunet.comparison.counts import count_of, describe_empty  # noqa: PLC0415
    from sgnet_nnunet.comparison.run import measure_results  # noqa: PLC0415
    from sgnet_nnunet.comparison.statistics import summarise  # noqa: PLC0415
    from sgnet_nnunet.comparison.summary import write_summary  # noqa: PLC0415
    from sgnet_nnunet.comparison.write import report_folder, write_tables  # noqa: PLC0415
    from sgnet_nnunet.report.build import write_report  # noqa: PLC0415

    with report_folder(options.folder) as folder:
        results = find_results()
        with progress_bar() as progress:
            task = progress.add_task("measuring", total=len(results.cases))
            figures = measure_results(
                results,
                presets=[preset.value for preset in options.presets],
                workers=options.workers,
                on_done=lambda number: progress.advance(task, number),
            )
        if complete:
            with err.status("counting parameters, timing networks"):
                figures = replace(figures, results=complete(results))
        with err.status("writing the report"):
            write_tables(figures, folder)
            summary = summarise(figures, rng=np.random.default_rng(options.seed))
            write_summary(summary, folder)
            write_report(
                figures,
                summary,
                folder,
                viewer=options.viewer,
                gates=options.gates,
                workers=options.workers,
            )
    for line in describe_empty(figures.per_case):
        err.print(escape(line), soft_wrap=True, highlight=False)
    counted = [
        count_of(len({case.name for case in results.cases}), "case"),
        count_of(len(results.models), "model"),
    ]
    report = options.folder / "report.html"
    out.print(f"{', '.join(counted)}: {escape(str(report))}", soft_wrap=True, highlight=False)
