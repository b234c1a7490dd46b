"""Tables of figures, drawn at random or written by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.comparison.figures import CASE_COLUMNS, HEADLINE_METRICS, LESION_COLUMNS, Figures
from sgnet_nnunet.results.case import Model, PredictedCase, Results, Target

LABEL = "tumour"

FEW_METRICS = (*HEADLINE_METRICS, "lesion_sensitivity_under_5mm")


@pytest.fixture(scope="session")
def rows() -> Callable[..., pd.DataFrame]:
    """Return a function that writes rows of `per_case` for one model, a case for each value."""

    def write(*, model: str = "A", patients: str | None = None, label: str = LABEL, **values) -> pd.DataFrame:
        """Write rows: `patients` has a letter for each case; `values` are the columns of metrics."""
        cases = len(next(iter(values.values())))
        columns = {
            "model": model,
            "fold": "0",
            "case": [f"case{i:03d}" for i in range(cases)],
            "patient": list(patients) if patients else [f"p{i:03d}" for i in range(cases)],
            "label": label,
            "empty": "",
            "missing": False,
        }
        return pd.DataFrame(columns | values)

    return write


@pytest.fixture(scope="session")
def figures_of() -> Callable[..., Figures]:
    """Return a function that makes figures out of rows of cases and lesions."""

    def make(per_case: pd.DataFrame, per_lesion: pd.DataFrame | None = None, **model) -> Figures:
        names = list(dict.fromkeys(per_case["model"]))
        results = Results(
            dataset="Dataset501_Tiny",
            targets=tuple(Target(name=name, values=(1,)) for name in dict.fromkeys(per_case["label"])),
            known_values=frozenset({0, 1}),
            models=tuple(Model(name=name, **model) for name in names),
            cases=tuple(
                PredictedCase(
                    model=row.model,
                    name=row.case,
                    patient=row.patient,
                    reference=Path(f"{row.case}.nii.gz"),
                    prediction=None if row.missing else Path(f"{row.model}/{row.case}.nii.gz"),
                )
                for row in per_case.itertuples()
            ),
        )
        lesions = pd.DataFrame(columns=list(LESION_COLUMNS)) if per_lesion is None else per_lesion
        return Figures(results=results, per_case=per_case, per_lesion=lesions)

    return make


@pytest.fixture(scope="session")
def random_figures(figures_of) -> Callable[..., Figures]:
    """Return a function that draws figures with empty masks and a missing prediction."""

    def draw(*, models: int = 3, cases: int = 20, seed: int = 0, metrics: tuple = FEW_METRICS) -> Figures:
        rng = np.random.default_rng(seed)
        names = [f"Model_{i}" for i in range(models)]
        tables, lesions = [], []
        for strength, name in enumerate(names):
            table = pd.DataFrame({name: rng.random(cases) for name in metrics})
            table["dice"] = np.clip(table["dice"] * 0.3 + 0.5 + 0.03 * strength, 0, 1)
            table[[c for c in table if c.endswith("_mm") or c == "false_positives"]] *= 20
            table["lesion_sensitivity_under_5mm"] = np.where(rng.random(cases) < 0.4, np.nan, 0.5)
            keys = {
                "model": name,
                "fold": [str(i % 5) for i in range(cases)],
                "case": [f"case{i:03d}" for i in range(cases)],
                "patient": [f"patient{i // 2:03d}" if i < 6 else f"patient{i:03d}" for i in range(cases)],
                "label": LABEL,
                "empty": ["both", "prediction", "reference", *[""] * (cases - 3)],
                "missing": [False, strength == 1, *[False] * (cases - 2)],
            }
            table.loc[0, table.columns.difference(["false_positives"])] = np.nan
            tables.append(pd.DataFrame(keys).join(table)[[*CASE_COLUMNS, *table.columns]])
            number = 5 * cases
            of = rng.integers(cases, size=number)
            lesions.append(
                pd.DataFrame(
                    {key: ([keys[key][i] for i in of] if key in ("fold", "case", "patient") else keys[key])
                     for key in ("model", "fold", "case", "patient", "label")}
                    | {"status": rng.choice(["detected", "missed", "false positive"], number),
                       "diameter_mm": rng.uniform(1, 20, number)}
                    | dict.fromkeys(("dice", "hd95_mm", "volume_mm3", "x_mm", "y_mm", "z_mm"), 0.0)
                )[list(LESION_COLUMNS)]
            )  # fmt: skip
        return figures_of(
            pd.concat(tables, ignore_index=True),
            pd.concat(lesions, ignore_index=True),
            parameters=670_000,
            seconds_per_case=1.5,
        )

    return draw
