"""Fitting of the component rejector on out-of-fold predictions, and its cross-fitted cost in lesions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.calibration import FEWEST
from sgnet_nnunet.evaluation.froc import Candidates, LesionCounts, match_true
from sgnet_nnunet.inference.component_rejector import Rejector, Scene, Tree, component_features
from sgnet_nnunet.lesions import find_lesions

SIZES_MM = (5.0, 10.0)
"""Diameters between the classes of reference lesions; those of the first or more are protected."""

SETTINGS = {"max_iter": 60, "learning_rate": 0.1, "max_leaf_nodes": 4, "min_samples_leaf": 8}
RISING = ("volume_mm3", "mean_probability", "max_probability")
"""Features that never lower a score: a larger and surer lesion is no likelier to be false."""

_LARGEST = 1e30
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class RejectorSettings:
    """How to fit a rejector.

    Attributes:
        gates: Whether its features include the scores of the gates, which few engines give.
        most_lost: Share of the found lesions of `SIZES_MM[0]` or more that may be lost.
    """

    gates: bool = False
    most_lost: float = 0.0

    def scene(self, scene: Scene) -> Scene:
        """Return a scene with what the features need; an SGNetError if the engine does not give it."""
        if self.gates and not scene.gate_scores:
            problem = "--rejector gates: this engine does not give the gates' scores"
            raise SGNetError(f"{problem}; use --engine sparse without --tta, or --rejector components")
        return scene if self.gates else replace(scene, gate_scores={})


@dataclass(frozen=True, eq=False, kw_only=True)
class Components:
    """Predicted lesions of cases with their features, and the reference lesions that true ones find.

    Attributes:
        candidates: The lesions at each threshold, nothing removed.
        features: Shape (lesions, features); `names` are the features'.
        finder: Index of a true lesion, shape (pairs,); `found` is that of a reference lesion it overlaps.
        case: Index of the case of each reference lesion, shape (reference lesions,).
        diameter_mm: Diameter of the sphere of its volume, shape (reference lesions,).
    """

    candidates: Candidates
    features: NDArray[np.float64]
    names: tuple[str, ...]
    finder: NDArray[np.intp]
    found: NDArray[np.intp]
    case: NDArray[np.intp]
    diameter_mm: NDArray[np.float64]

    def of(self, which: NDArray[np.bool_]) -> "Components":
        """Return some of the predicted lesions; the reference lesions stay."""
        kept = which[self.finder]
        return replace(
            self,
            candidates=self.candidates.of(which),
            features=self.features[which],
            finder=(np.cumsum(which) - 1)[self.finder[kept]],
            found=self.found[kept],
        )

    def is_found(self) -> NDArray[np.bool_]:
        """Return which reference lesions are found, shape (reference lesions,)."""
        found = np.zeros(self.case.size, dtype=np.bool_)
        found[self.found] = True
        return found

    def counts(self, lesions: NDArray[np.intp]) -> LesionCounts:
        """Return the counts of cases with these numbers of reference lesions, shape (cases,)."""
        false = self.candidates.case[~self.candidates.is_true]
        found = self.case[self.is_found()]
        return LesionCounts(lesions, *(np.bincount(each, minlength=lesions.size) for each in (found, false)))

    @classmethod
    def join(cls, of_cases: Sequence["Components"]) -> "Components":
        """Return the lesions of several cases, numbered in this order."""
        predicted = np.cumsum([0, *(each.candidates.case.size for each in of_cases)])
        actual = np.cumsum([0, *(each.case.size for each in of_cases)])
        names = max((each.names for each in of_cases), key=len)
        return cls(
            candidates=Candidates.join([each.candidates for each in of_cases]),
            features=np.concatenate([each.features for each in of_cases if each.names] or [np.empty((0, 0))]),
            names=names,
            finder=np.concatenate([each.finder + n for each, n in zip(of_cases, predicted, strict=False)]),
            found=np.concatenate([each.found + n for each, n in zip(of_cases, actual, strict=False)]),
            case=np.repeat(np.arange(len(of_cases)), np.diff(actual)),
            diameter_mm=np.concatenate([each.diameter_mm for each in of_cases]),
        )


def find_components(
    foreground: NDArray[np.floating],
    reference: NDArray[np.bool_],
    *,
    thresholds: Sequence[float],
    scene: Scene,
    spacing: tuple[float, ...],
) -> Components:
    """Return the lesions of a case at each threshold on the foreground probability, with their features.

    Args:
        foreground: Shape (z, y, x).
        reference: Foreground of any class, shape (z, y, x).
        thresholds: Rising.
        scene: The preprocessed image.
        spacing: Voxel size in mm along z, y, x.
    """
    actual = find_lesions(reference, spacing=spacing)
    parts = []
    for index, threshold in enumerate(thresholds):
        predicted = find_lesions(foreground > threshold, spacing=spacing)
        match, is_true = match_true(predicted, actual)
        by_name = component_features(predicted, foreground, scene, spacing)
        finds = is_true[match.predicted]
        candidates = Candidates(
            np.zeros(predicted.number, dtype=np.intp),
            np.full(predicted.number, index),
            predicted.volumes_mm3,
            by_name.get("mean_probability", np.empty(0)),
            is_true,
        )
        columns = list(by_name.values())
        part = Components(
            candidates=candidates,
            features=np.stack(columns, axis=1) if columns else np.empty((0, 0)),
            names=tuple(by_name),
            finder=match.predicted[finds],
            found=match.actual[finds],
            case=np.empty(0, dtype=np.intp),
            diameter_mm=np.empty(0),
        )
        parts.append(part)
    joined = Components.join(parts)
    # The parts are those of thresholds, not of cases.
    candidates = replace(joined.candidates, case=np.zeros_like(joined.candidates.case))
    case = np.zeros(actual.number, dtype=np.intp)
    return replace(joined, candidates=candidates, case=case, diameter_mm=actual.diameters_mm)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rejection:
    """A rejector, and what it does.

    Attributes:
        rejector: Fitted on all cases at the operating point.
        kept: The lesions that it keeps there, on the cases it was fitted on: optimistically biased.
        before: Those at the point of each group of cases; `after` the ones that a rejector of the other
            groups and patients keeps.
    """

    rejector: Rejector
    kept: Components
    before: Components
    after: Components

    def report(self, cases: int) -> dict[str, Any]:
        """Return the cross-fitted false positives per case, and the lesions lost by diameter in mm."""
        sizes = np.searchsorted(SIZES_MM, self.before.diameter_mm, side="right")
        found, left = self.before.is_found(), self.after.is_found()
        false = (np.count_nonzero(~each.candidates.is_true) / cases for each in (self.before, self.after))
        classes = [f"below {SIZES_MM[0]:g}", f"{SIZES_MM[0]:g} to {SIZES_MM[1]:g}", f"from {SIZES_MM[1]:g}"]
        lost = {
            name: {
                "lost": int(np.count_nonzero(found & ~left & (sizes == n))),
                "found": int(np.count_nonzero(found & (sizes == n))),
                "lesions": int(np.count_nonzero(sizes == n)),
            }
            for n, name in enumerate(classes)
        }
        return {**dict(zip(("before", "after"), false, strict=True)), "lesions_by_mm": lost}


def fit_rejection(
    components: Components,
    *,
    at_point: NDArray[np.bool_],
    at_points: Mapping[str, NDArray[np.bool_]],
    groups: NDArray[np.str_],
    patients: NDArray[np.str_],
    most_lost: float = 0.0,
) -> Rejection | None:
    """Fit the rejector of an operating point, and cross-fit it by groups and patients.

    It is None if there are too few true lesions, or false positives, in all cases or without some group.

    Args:
        components: Of all cases.
        at_point: Those that the operating point keeps, shape (lesions,).
        at_points: Those that the point of each group of cases keeps.
        groups: Group of each case, shape (cases,).
        patients: Patient of each case, shape (cases,).
        most_lost: Share of the found lesions of `SIZES_MM[0]` or more that may be lost.
    """
    rejector = fit_rejector(components.of(at_point), groups=groups, patients=patients, most_lost=most_lost)
    if rejector is None:
        return None
    of_case = components.candidates.case
    before, after = (np.zeros(of_case.size, dtype=np.bool_) for _ in range(2))
    for group, kept in at_points.items():
        here = groups == group
        others = components.of(kept & ~np.isin(patients, patients[here])[of_case])
        without = fit_rejector(others, groups=groups, patients=patients, most_lost=most_lost)
        own = kept & here[of_case]
        before |= own
        after |= own if without is None else own & without.keeps(components.features)
    final = components.of(at_point & rejector.keeps(components.features))
    return Rejection(rejector=rejector, kept=final, before=components.of(before), after=components.of(after))


def fit_rejector(
    components: Components,
    *,
    groups: NDArray[np.str_],
    patients: NDArray[np.str_],
    most_lost: float = 0.0,
) -> Rejector | None:
    """Return a rejector fitted on lesions; None with too few.

    Its minimum score is chosen on scores that are cross-fitted by groups and patients: at most the share
    `most_lost` of the found lesions of `SIZES_MM[0]` or more is lost, and no lesion is removed that is
    likelier true than false.
    """
    if (scores := cross_fitted_scores(components, groups, patients)) is None:
        return None
    best = np.full(components.case.size, -np.inf)
    np.maximum.at(best, components.found, scores[components.finder])
    protected = np.sort(best[components.is_found() & (components.diameter_mm >= SIZES_MM[0])])
    lowest = min([0.0, *protected[int(most_lost * len(protected)) :].tolist()])
    whole = fit_trees(components.features, components.candidates.is_true, components.names)
    return whole and replace(whole, min_score=lowest)


def cross_fitted_scores(
    components: Components, groups: NDArray[np.str_], patients: NDArray[np.str_]
) -> NDArray[np.float64] | None:
    """Return each lesion's score by trees of the other groups and patients, shape (lesions,).

    It is None with too few true or false lesions without some group.
    """
    of_case, is_true = components.candidates.case, components.candidates.is_true
    scores = np.full(is_true.size, np.nan)
    for group in np.unique(groups[of_case]):
        here = groups == group
        others = ~np.isin(patients, patients[here])[of_case]
        if (fold := fit_trees(components.features[others], is_true[others], components.names)) is None:
            return None
        own = here[of_case]
        scores[own] = fold.scores(components.features[own])
    return scores


def fit_trees(
    features: NDArray[np.float64], is_true: NDArray[np.bool_], names: tuple[str, ...]
) -> Rejector | None:
    """Return boosted trees with a minimum score of 0; None with too few true or false lesions."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - a second

    if min(np.count_nonzero(is_true), np.count_nonzero(~is_true)) < FEWEST:
        return None
    model = HistGradientBoostingClassifier(
        **SETTINGS,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=0,
        monotonic_cst=[int(name in RISING) for name in names],
    )
    model.fit(features, is_true)
    # Not public: the layout is checked below.
    nodes = [stage[0].nodes for stage in model._predictors]
    baseline = float(np.ravel(model._baseline_prediction)[0])
    trees = tuple(map(_tree, nodes))
    rejector = Rejector(features=names, baseline=baseline, trees=trees, min_score=0.0)
    if not np.allclose(rejector.scores(features), model.decision_function(features), atol=_ROUNDING):
        raise SGNetError("this release of scikit-learn has trees of another layout; install 1.3 to 1.9")
    return rejector


def _tree(nodes: NDArray[Any]) -> Tree:
    """Return scikit-learn's nodes as lists; a threshold of infinity, for NaN against numbers, is cut."""
    leaf = nodes["is_leaf"].astype(bool)
    index = {name: np.where(leaf, -1, nodes[name].astype(int)) for name in ("feature_idx", "left", "right")}
    return Tree(
        feature=tuple(index["feature_idx"].tolist()),
        threshold=tuple(nodes["num_threshold"].clip(-_LARGEST, _LARGEST).tolist()),
        nan_left=tuple(nodes["missing_go_to_left"].astype(bool).tolist()),
        left=tuple(index["left"].tolist()),
        right=tuple(index["right"].tolist()),
        value=tuple(nodes["value"].tolist()),
    )
