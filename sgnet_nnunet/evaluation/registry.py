"""Registry of the metrics: their declaration and their look-up by name.

A metric is declared once, where it is measured. This is all that a new one needs:

    @register_metric("jaccard", "Jaccard", SHARE)
    def jaccard(pair: MaskPair) -> float:
        '''Jaccard index: the common voxels over the voxels of either mask.'''
        return pair.common_voxels / np.count_nonzero(pair.prediction | pair.reference)

Columns of tables, their titles, what is best, axes of figures and definitions in reports are read from here.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from math import inf, nan
from typing import Literal

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.nifti import Grid

DECIMALS = {"": 3, "mm": 1, "lesions": 2, "mm3": 0}
"""Decimals that a metric is shown with, by its unit."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What metrics of one kind have in common.

    Attributes:
        unit: Unit of the value, "" for a share.
        best: The value of a perfect mask; NaN if there is none.
        higher_is_better: None if the value does not measure the mask's quality.
        limits: The smallest and largest possible value.
        both_empty: The value for two empty masks; `measured` if they are measured like any others.
        one_empty: The value if one mask is empty; `diagonal` for that of the image in mm.
    """

    unit: str
    best: float
    higher_is_better: bool | None
    limits: tuple[float, float] = (0.0, inf)
    both_empty: float | Literal["measured"] = nan
    one_empty: float | Literal["measured", "diagonal"] = "measured"


SHARE = Kind(unit="", best=1.0, higher_is_better=True, limits=(0.0, 1.0), one_empty=0.0)
DISTANCE = Kind(unit="mm", best=0.0, higher_is_better=False, one_empty="diagonal")
VOLUME_ERROR = Kind(unit="mm3", best=0.0, higher_is_better=False)
FALSE_LESIONS = Kind(unit="lesions", best=0.0, higher_is_better=False, both_empty="measured")
VOLUME = Kind(unit="mm3", best=nan, higher_is_better=None, both_empty="measured")
LESION_COUNT = replace(VOLUME, unit="lesions")


@dataclass(frozen=True, kw_only=True)
class Metric(Kind):
    """One number for a predicted mask and its reference; call it with a `MaskPair`.

    Attributes:
        name: Column of a table, with the unit at its end if there is one.
        title: Title in tables and figures.
        meaning: Definition, without a full stop.
        function: Measures a pair of masks that have voxels, or any pair if the kind says `measured`.
        headline: Whether models are tested on it, and reports show it first.
        ranked: Whether models are ranked by it: few metrics, none of which restates another.
        preset: Name of the challenge whose metric it is; "" for those that every case is measured with.
    """

    name: str
    title: str
    meaning: str
    function: Callable[[MaskPair], float]
    headline: bool = False
    ranked: bool = False
    preset: str = ""

    @property
    def decimals(self) -> int:
        """Decimals that it is shown with."""
        return DECIMALS[self.unit]

    def value_if_one_empty(self, grid: Grid) -> float:
        """Return the value for one empty mask on an image's grid; NaN if that has to be measured."""
        if isinstance(self.one_empty, float):
            return self.one_empty
        return grid.diagonal_mm if self.one_empty == "diagonal" else nan

    def __call__(self, pair: MaskPair) -> float:
        """Return the value for any pair of masks."""
        if pair.empty == "both" and not isinstance(self.both_empty, str):
            return self.both_empty
        if pair.empty in {"prediction", "reference"} and self.one_empty != "measured":
            return self.value_if_one_empty(pair.grid)
        return self.function(pair)

    def as_dict(self) -> dict[str, object]:
        """Return everything that a reader must know of the metric, by name."""
        names = ("name", "title", "unit", "higher_is_better", "best", "meaning", "headline", "ranked")
        return {name: getattr(self, name) for name in names}


METRIC_MODULES = tuple(
    f"sgnet_nnunet.evaluation.{name}"
    for name in ("mask_metrics", "surface_metrics", "lesion_metrics", "challenges")
)
"""Where metrics are declared, in the order of a table's columns."""

_REGISTERED: dict[str, Metric] = {}


def register_metric(
    name: str,
    title: str,
    kind: Kind,
    *,
    meaning: str = "",
    headline: bool = False,
    ranked: bool = False,
    preset: str = "",
) -> Callable[[Callable[[MaskPair], float]], Metric]:
    """Return a decorator that makes a function of a `MaskPair` a metric and registers it; see `Metric`.

    The meaning is by default the first line of the function's docstring.

    Raises:
        ValueError: If another metric has the name.
    """

    def register(function: Callable[[MaskPair], float]) -> Metric:
        if name in _REGISTERED:
            raise ValueError(f"there is a metric named {name!r} already; give another name")
        _REGISTERED[name] = Metric(
            **vars(kind),
            name=name,
            title=title,
            meaning=meaning or (inspect.getdoc(function) or "").partition("\n")[0].rstrip("."),
            function=function,
            headline=headline,
            ranked=ranked,
            preset=preset,
        )
        return _REGISTERED[name]

    return register


def registered_metrics() -> tuple[Metric, ...]:
    """Return all metrics in the order of a table's columns, those of the challenges last."""
    for module in METRIC_MODULES:
        import_module(module)
    order = dict(zip(METRIC_MODULES, range(len(METRIC_MODULES)), strict=True))
    found = _REGISTERED.values()
    return tuple(sorted(found, key=lambda metric: order.get(metric.function.__module__, len(order))))


def case_metrics(presets: Iterable[str] = ()) -> tuple[Metric, ...]:
    """Return the metrics that every case is measured with, and those of the named presets.

    >>> [metric.name for metric in case_metrics() if metric.ranked]
    ['dice', 'nsd_1mm', 'lesion_f1', 'false_positives']

    Raises:
        SGNetError: If there is no such preset.
    """
    registered = registered_metrics()
    names = tuple(dict.fromkeys(presets))
    known = tuple(dict.fromkeys(metric.preset for metric in registered if metric.preset))
    if unknown := [name for name in names if name not in known]:
        raise SGNetError(f"there is no preset {unknown[0]!r}; name {' or '.join(known)}")
    return tuple(metric for preset in ("", *names) for metric in registered if metric.preset == preset)


def find_metric(name: str) -> Metric:
    """Return a metric by its column's name.

    >>> find_metric("dice").title
    'Dice'

    Raises:
        SGNetError: If there is none.
    """
    registered_metrics()
    if name not in _REGISTERED:
        raise SGNetError(f"there is no metric {name!r}; register it in a module of sgnet_nnunet.evaluation")
    return _REGISTERED[name]


def measure(pair: MaskPair, metrics: Iterable[Metric] | None = None) -> dict[str, float]:
    """Return the value of each metric by its name; by default of those that every case is measured with.

    >>> import numpy as np
    >>> from sgnet_nnunet.evaluation.pairs import MaskPair
    >>> mask = np.zeros((4, 4, 4), dtype=bool)
    >>> mask[1:3, 1:3, 1:3] = True
    >>> pair = MaskPair(np.roll(mask, 1, axis=0), mask, affine=np.diag([2.0, 1.0, 1.0, 1.0]))
    >>> measure(pair, map(find_metric, ("dice", "hd95_directed_mm", "false_positives")))
    {'dice': 0.5, 'hd95_directed_mm': 2.0, 'false_positives': 0.0}
    """
    return {metric.name: metric(pair) for metric in (case_metrics() if metrics is None else metrics)}
