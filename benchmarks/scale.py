"""Hours, GPU-hours, disk and cost of studies and of bulk inference, computed from the measured times.

    python benchmarks/scale.py --price cpu=0.10 --price T4=0.35      # prints the tables of docs/scale.md

The measured times are those of `benchmarks/results`, as `sgnet_nnunet/study/costs.py` has them; a test keeps
the two equal. Times on GPUs other than an H200 are estimates, by memory bandwidth. Prices are assumptions.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import pandas as pd
import typer
from timing import markdown

from sgnet_nnunet.study import costs

Place = Literal["cpu"] | costs.Gpu

PRICES: dict[Place, float] = {"cpu": 0.10, "T4": 0.35, "L4": 0.70, "V100": 2.50, "A100": 3.70, "H200": 5.00}
"""Assumed, in dollars an hour: two cores, or one GPU."""

TRAINERS = ("SGNetTrainer", "SGNetNoGateTrainer", "BaselineUNetTrainer", "BaselineAttentionUNetTrainer")
FOLDS, CASES = 5, 1000


def training_table(prices: Mapping[Place, float], *, epochs: int, iterations: int) -> pd.DataFrame:
    """Return hours and cost of five folds of each network on each device, 50 validation batches an epoch."""
    rows = []
    for trainer in TRAINERS:
        row = {"five folds of": f"`{trainer}`"}
        for place, price in prices.items():
            device = "cpu" if place == "cpu" else "cuda"
            cost = costs.training_cost(
                trainer, device=device, gpu="H200" if place == "cpu" else place, patch=(32, 96, 96), batch=4,
                iterations=epochs * (iterations + 50 / 3), cases=CASES // FOLDS,
            )  # fmt: skip
            hours = FOLDS * cost.minutes / 60
            row["two cores" if place == "cpu" else place] = f"{hours:,.0f} h, ${hours * price:,.0f}"
        rows.append(row)
    return pd.DataFrame(rows)


def patients_table(price: float) -> pd.DataFrame:
    """Return hours on two cores, disk and cost of 1,000 patients."""
    disk = {name: CASES * mb / 1000 for name, mb in costs.CASE_MB.items()}
    steps = {
        "preprocess, `SGNetPlanner`": (costs.preprocessing_cost("SGNetPlanner", CASES), "preprocessed"),
        "preprocess, `ExperimentPlanner`": (
            costs.preprocessing_cost("ExperimentPlanner", CASES),
            "preprocessed",
        ),
        "predict, SG-Net, one fold": (costs.prediction_cost("SGNetTrainer", CASES, folds=1), "mask"),
        "predict, SG-Net, five folds": (costs.prediction_cost("SGNetTrainer", CASES, folds=5), "mask"),
        "predict, a baseline, five folds": (costs.prediction_cost("BaselineUNet", CASES, folds=5), "mask"),
        "predict, nnU-Net's window, one fold": (
            costs.prediction_cost("nnUNetTrainer", CASES, folds=1),
            "mask",
        ),
    }
    rows = [
        {
            "1,000 patients": name,
            "hours on two cores": f"{cost.minutes / 60:,.2f}",
            "disk, GB": f"{disk[kind]:,.2f}",
            "cost": f"${cost.minutes / 60 * price:,.2f}",
        }
        for name, (cost, kind) in steps.items()
    ]
    return pd.DataFrame(
        [*rows, {"1,000 patients": "raw images, two channels", "disk, GB": f"{disk['raw']:,.2f}"}]
    )


def main(
    price: Annotated[
        list[str] | None, typer.Option(help="Dollars an hour, such as T4=0.35; again for more.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of a training.")] = 200,
    iterations: Annotated[int, typer.Option(min=1, help="Training batches an epoch.")] = 250,
) -> None:
    """Print the tables."""
    given = (each.partition("=") for each in price or ())
    prices = PRICES | {cast("Place", name): float(value) for name, _, value in given}
    typer.echo(markdown(training_table(prices, epochs=epochs, iterations=iterations)))
    typer.echo()
    typer.echo(markdown(patients_table(prices["cpu"])))


if __name__ == "__main__":
    typer.run(main)
