"""What a metric is, and all metrics by name.

A metric is declared once, where it is measured. This is all that a new one needs:

    @register_metric()
    @dataclass(frozen=True)
    class Jaccard(Share):
        '''Jaccard index: the common voxels over the voxels of either mask.'''

        name, title = "jaccard", "Jaccard"

        def measure(self, pair: MaskPair) -> float:
            return pair.common_voxels / np.count_nonzero(pair.prediction | pair.reference)

The columns of tables, their titles, the order of colours ("best"), the axes of figures and the definitions
in reports are read from here.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from math import inf, nan
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from sgnet_nnunet.errors import SGNetError

if TYPE_CHECKING:
    from sgnet_nnunet.evaluation.pairs import MaskPair
    from sgnet_nnunet.nifti import Grid

DECIMALS = {"": 3, "mm": 1, "lesions": 2, "mm3": 0}
"""Decimals that a metric is shown with, by its unit."""


class Metric(ABC):
    """One number for a predicted mask and its reference; call it with a `MaskPair`.

    A metric is a frozen dataclass; its parameters, such as a tolerance, are fields. `headline` and `ranked`
    are false unless the metric says otherwise.

    Attributes:
        unit: Unit of the value, "" for a share.
        best: The value of a perfect mask; NaN if there is none.
        higher_is_better: None if the value does not measure the mask's quality.
        limits: The smallest and largest possible value.
        both_empty: The value for two empty masks: `nan`, or whatever `measure` returns.
        one_empty: The value if one mask is empty: that of `worst`, or whatever `measure` returns.
        preset: Name of the challenge whose metric it is; "" for those that every case is measured with.
    """

    unit: ClassVar[str] = ""
    best: ClassVar[float] = nan
    higher_is_better: ClassVar[bool | None] = None
    limits: ClassVar[tuple[float, float]] = (0.0, inf)
    both_empty: ClassVar[Literal["nan", "measured"]] = "nan"
    one_empty: ClassVar[Literal["worst", "measured"]] = "worst"
    preset: ClassVar[str] = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """Column of a table, with the unit at its end if there is one."""

    @property
    @abstractmethod
    def title(self) -> str:
        """Title in tables and figures."""

    @property
    def headline(self) -> bool:
        """Whether models are tested on it, and reports show it first."""
        return False

    @property
    def ranked(self) -> bool:
        """Whether models are ranked by it: few metrics, none of which restates another."""
        return False

    @property
    def meaning(self) -> str:
        """Definition: the first line of the class's docstring, without its full stop."""
        return (inspect.getdoc(type(self)) or "").partition("\n")[0].rstrip(".")

    @property
    def decimals(self) -> int:
        """Decimals that it is shown with."""
        return DECIMALS.get(self.unit, 2)

    @abstractmethod
    def worst(self, grid: "Grid") -> float:
        """Return the worst value on an image's grid."""

    @abstractmethod
    def measure(self, pair: "MaskPair") -> float:
        """Return the value for two masks, neither of them empty unless the metric says `measured`."""

    def __call__(self, pair: "MaskPair") -> float:
        """Return the value for any pair of masks."""
        if pair.empty == "both" and self.both_empty == "nan":
            return nan
        if pair.empty in {"prediction", "reference"} and self.one_empty == "worst":
            return self.worst(pair.grid)
        return self.measure(pair)

    def as_dict(self) -> dict[str, object]:
        """Return everything that a reader must know of the metric, by name."""
        names = ("name", "title", "unit", "higher_is_better", "best", "meaning", "headline", "ranked")
        return {name: getattr(self, name) for name in names}


class Share(Metric):
    """A metric from 0, the worst, to 1."""

    best, higher_is_better, limits = 1.0, True, (0.0, 1.0)

    def worst(self, grid: "Grid") -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0


class Distance(Metric):
    """A metric in mm whose worst value is the image's diagonal."""

    unit, best, higher_is_better = "mm", 0.0, False

    def worst(self, grid: "Grid") -> float:
        """Return the diagonal in mm."""
        return grid.diagonal_mm


class Amount(Metric):
    """An amount of something wrong, without an upper limit, measured for one empty mask too."""

    best, higher_is_better, one_empty = 0.0, False, "measured"

    def worst(self, grid: "Grid") -> float:  # noqa: ARG002
        """Return infinity."""
        return inf


class Description(Metric):
    """A property of a mask that does not measure its quality; 0 for an empty one."""

    both_empty = one_empty = "measured"

    def worst(self, grid: "Grid") -> float:  # noqa: ARG002
        """Return NaN: no value is worse than another."""
        return nan


AnyMetric = TypeVar("AnyMetric", bound=Metric)

METRIC_MODULES = tuple(
    f"sgnet_nnunet.evaluation.{name}"
    for name in ("mask_metrics", "surface_metrics", "lesion_metrics", "challenges")
)
"""Where metrics are declared, in the order of a table's columns."""

_REGISTERED: dict[str, Metric] = {}


def register_metric(*variants: Mapping[str, object]) -> Callable[[type[AnyMetric]], type[AnyMetric]]:
    """Return a decorator that registers a metric class with the given values of its fields.

    Args:
        variants: Values of the fields by name, one mapping for each metric to register; without any, the
            metric is registered with its defaults.

    Raises:
        ValueError: If another metric has the name.
    """

    def register(metric_class: type[AnyMetric]) -> type[AnyMetric]:
        for variant in variants or ({},):
            metric = metric_class(**variant)
            if metric.name in _REGISTERED:
                raise ValueError(f"there is a metric named {metric.name!r} already; give another name")
            _REGISTERED[metric.name] = metric
        return metric_class

    return register


def registered_metrics() -> tuple[Metric, ...]:
    """Return all metrics in the order of a table's columns, those of the challenges last."""
    for module in METRIC_MODULES:
        import_module(module)
    order = {module: position for position, module in enumerate(METRIC_MODULES)}
    return tuple(
        sorted(
            _REGISTERED.values(), key=lambda metric: order.get(type(metric).__module__, len(METRIC_MODULES))
        )
    )


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


def headline_metrics() -> tuple[Metric, ...]:
    """Return the metrics that models are tested on and that reports show first."""
    return tuple(metric for metric in registered_metrics() if metric.headline)


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


def measure(pair: "MaskPair", metrics: Iterable[Metric] | None = None) -> dict[str, float]:
    """Return the value of each metric by its name; by default of those that every case is measured with."""
    return {metric.name: metric(pair) for metric in (case_metrics() if metrics is None else metrics)}
