"""The figures of a comparison, as the tables that everything else is made from."""

from dataclasses import dataclass

import pandas as pd

from sgnet_nnunet.results.case import Results

KEYS = ("model", "fold", "case", "patient", "label")
"""The first columns of both tables; `label` is the name of a label or region."""

CASE_COLUMNS = (*KEYS, "empty", "missing")
"""Columns of `per_case` before those of the metrics.

`empty` says which mask has no voxel: `prediction`, `reference`, `both` or "". `missing` is true where
there was no prediction and an empty mask was scored in its place.
"""

LESION_COLUMNS = (
    *KEYS,
    "status",
    "dice",
    "hd95_mm",
    "volume_mm3",
    "diameter_mm",
    "x_mm",
    "y_mm",
    "z_mm",
)
"""Columns of `per_lesion`: those of `evaluation.lesion_rows.LesionRow`, its centroid in world mm (RAS+)."""

HEADLINE_METRICS = (
    "dice",
    "precision",
    "recall",
    "hd95_directed_mm",
    "nsd_1mm",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    "false_positives",
)
"""The metrics that tables show first and that models are tested on; `evaluation.catalogue` has them all."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        results: Where the masks came from.
        per_case: A row for each model, case and label: `CASE_COLUMNS`, then a column for each metric.
        per_lesion: A row for each lesion of a reference and each false positive: `LESION_COLUMNS`.
    """

    results: Results
    per_case: pd.DataFrame
    per_lesion: pd.DataFrame
