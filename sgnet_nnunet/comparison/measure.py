"""One case measured: its rows of both tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.catalogue import CASE_METRICS, PRESETS, measure
from sgnet_nnunet.evaluation.lesion_rows import LesionRow, lesion_rows
from sgnet_nnunet.evaluation.metric import Metric
from sgnet_nnunet.evaluation.pair import MaskPair
from sgnet_nnunet.results.case import PredictedCase, Target

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class MeasuredCase:
    """The rows of one model's answer to one case.

    Attributes:
        per_case: A row for each target, as in `Figures.per_case`.
        per_lesion: A row for each lesion of each target, as in `Figures.per_lesion`.
    """

    per_case: tuple[Row, ...]
    per_lesion: tuple[Row, ...]


def metrics_with(presets: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of every case and those of the named presets.

    Raises:
        SGNetError: If there is no such preset.
    """
    metrics = CASE_METRICS
    for preset in dict.fromkeys(presets):
        if preset not in PRESETS:
            raise SGNetError(f"there is no preset {preset!r}; name {' or '.join(PRESETS)}")
        metrics += PRESETS[preset]
    return metrics


def measure_case(
    case: PredictedCase,
    targets: Sequence[Target],
    pairs: Sequence[MaskPair],
    metrics: Sequence[Metric] = CASE_METRICS,
) -> MeasuredCase:
    """Measure one model's answer to one case.

    Args:
        case: The case.
        targets: The labels or regions.
        pairs: The masks of each, as `results.read_pair.read_pairs` returns them.
        metrics: What to measure.
    """
    per_case: list[Row] = []
    per_lesion: list[Row] = []
    for target, pair in zip(targets, pairs, strict=True):
        keys: Row = {
            "model": case.model,
            "fold": case.fold,
            "case": case.name,
            "patient": case.patient,
            "label": target.name,
        }
        state = {"empty": pair.empty or "", "missing": case.prediction is None}
        per_case.append(keys | state | measure(pair, metrics))
        per_lesion += [keys | _lesion(row) for row in lesion_rows(pair)]
    return MeasuredCase(per_case=tuple(per_case), per_lesion=tuple(per_lesion))


def _lesion(row: LesionRow) -> Row:
    x, y, z = row.centroid_mm
    return {
        "status": row.status,
        "dice": row.dice,
        "hd95_mm": row.hd95_mm,
        "volume_mm3": row.volume_mm3,
        "diameter_mm": row.diameter_mm,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
    }
