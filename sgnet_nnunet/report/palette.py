"""Colours that people who confuse red and green can tell apart, on white and on a grey scan alike.

Okabe and Ito's palette (https://jfly.uni-koeln.de/color/): yellow is the truth's, the others the models'.
"""

from collections.abc import Sequence

from sgnet_nnunet.results.case import Model

REFERENCE = "Reference"
"""What the truth is called."""

TRUTH_COLOUR = "#F0E442"
MODEL_COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#E69F00", "#999999", "#8B5FBF")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes of a model's points, so that a plot does not lean on colour alone."""


def colours_of(models: Sequence[Model]) -> dict[str, str]:
    """Return each model's colour, `#rrggbb`; from the ninth model on they repeat."""
    return {model.name: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, model in enumerate(models)}


def markers_of(models: Sequence[Model]) -> dict[str, str]:
    """Return each model's marker in matplotlib's letters; from the ninth model on they repeat."""
    return {model.name: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour `#rrggbb`, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
