"""Empty masks and missing predictions, in words: scored by rule, and never without saying so."""

import pandas as pd


def describe_empty(per_case: pd.DataFrame) -> list[str]:
    """Return a line for each model and label with an empty mask, and one for missing predictions.

    Args:
        per_case: The table of `comparison.figures.Figures`.
    """
    lines = []
    for model, rows in per_case.groupby("model", sort=False):
        cases = rows["case"].nunique()
        if missing := rows.loc[rows["missing"], "case"].nunique():
            lines.append(f"{model}: {count_of(missing, 'prediction')} of {cases} missing, scored as empty")
        for label, of_label in rows.groupby("label", sort=False):
            number = of_label.loc[~of_label["missing"], "empty"].value_counts()
            for state, words in (
                ("prediction", "empty, scored worst"),
                ("reference", "not empty where the reference is, scored worst"),
                ("both", "empty like the reference, left out of the means"),
            ):
                if count := int(number.get(state, 0)):
                    lines.append(f"{model}, {label}: {count_of(count, 'prediction')} {words}")
    return lines


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
