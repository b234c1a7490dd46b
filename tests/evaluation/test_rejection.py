"""Fitting of the component rejector: its trees, its protection of lesions, and honest figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import Candidates, LesionCounts, SearchGrid
from sgnet_nnunet.evaluation.rejection import (
    SETTINGS,
    Components,
    RejectorSettings,
    find_components,
    fit_rejection,
    fit_rejector,
    fit_trees,
)
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.evaluation.tuning import choose_operating_point, with_rejector, write_tuning
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import Provenance, read_operating_point
from sgnet_nnunet.inference.preprocessing import Prepared

CASES = 30


@pytest.fixture
def rng():
    """Return the generator of what a test draws."""
    return np.random.default_rng(7)


GROUPS = np.array([f"fold {case % 3}" for case in range(CASES)])
SHAPE = (10, 20, 22)
PATIENTS = np.array([f"p{case}" for case in range(CASES)])


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Fit a quarter of the trees, which takes a quarter of the time."""
    monkeypatch.setitem(SETTINGS, "max_iter", 15)


def drawn(rng, *, tell=3.0, per_case=6):
    """Components of cases, half of them true ones of a lesion each, told by a feature up to `tell`."""
    case = np.repeat(np.arange(CASES), per_case)
    is_true = np.arange(case.size) % 2 == 0
    features = rng.normal(size=(case.size, 4))
    features[:, 1] += tell * is_true
    features[rng.uniform(size=features.shape) < 0.1] = np.nan
    number = np.count_nonzero(is_true)
    ones = np.ones(case.size)
    return Components(
        candidates=Candidates(case, np.zeros_like(case), 50 * ones, 0.8 * ones, is_true),
        features=features,
        names=("a", "b", "c", "d"),
        finder=np.flatnonzero(is_true),
        found=np.arange(number),
        case=case[is_true],
        diameter_mm=rng.choice([3.0, 7.0, 15.0], size=number),
    )


def fitted(components, **options):
    everything = np.ones(components.candidates.case.size, dtype=bool)
    at_points = dict.fromkeys(np.unique(GROUPS).tolist(), everything)
    return fit_rejection(
        components, at_point=everything, at_points=at_points, groups=GROUPS, patients=PATIENTS, **options
    )


def test_trees_score_as_scikit_learn_does(rng):
    components = drawn(rng)
    is_true = components.candidates.is_true
    own = fit_trees(components.features, is_true, components.names)
    options = {"l2_regularization": 1.0, "early_stopping": False, "random_state": 0}
    model = HistGradientBoostingClassifier(**SETTINGS, **options).fit(components.features, is_true)
    new = rng.normal(size=(500, 4)) * 3
    new[rng.uniform(size=new.shape) < 0.2] = np.nan
    np.testing.assert_allclose(own.scores(new), model.decision_function(new), atol=1e-9)
    assert len(own.trees) == SETTINGS["max_iter"]


def test_split_between_nan_and_numbers_is_kept(rng):
    features = np.where(rng.uniform(size=(80, 1)) < 0.5, np.nan, 1.0)
    rejector = fit_trees(features, np.isnan(features[:, 0]), ("a",))
    assert rejector.keeps(np.array([[np.nan], [1.0], [1e9]])).tolist() == [True, False, False]


def test_false_positives_are_removed_and_protected_lesions_stay(rng):
    components = drawn(rng, tell=6.0)
    rejection = fitted(components)
    report = rejection.report(CASES)
    assert report["before"] == 3
    assert report["after"] < 0.5
    assert sum(each["lesions"] for each in report["lesions_by_mm"].values()) == components.case.size
    assert rejection.rejector.min_score <= 0


def test_features_that_tell_nothing_remove_little(rng):
    """The cut protects the lesions, and the figures are of cases that the trees have not seen."""
    report = fitted(drawn(rng, tell=0.0)).report(CASES)
    large = [report["lesions_by_mm"][name] for name in ("5 to 10", "from 10")]
    assert sum(each["lost"] for each in large) <= 4
    assert report["after"] > 2


def test_more_is_removed_where_more_may_be_lost(rng):
    components = drawn(rng, tell=1.5)
    cuts = [fitted(components, most_lost=share).rejector.min_score for share in (0.0, 0.1)]
    assert cuts[0] < cuts[1] <= 0


def test_too_few_false_positives_give_no_rejector(rng):
    components = drawn(rng)
    few = components.of(components.candidates.is_true | (components.candidates.case < 2))
    assert fitted(few) is None
    assert fit_rejector(few, groups=GROUPS, patients=PATIENTS) is None


def scene_of(rng, gate_scores=()):
    """A drawn image of one channel."""
    known = {
        "spacing": (1.0, 1.0, 1.0),
        "shape_after_cropping_and_before_resampling": SHAPE,
        "bbox_used_for_cropping": [(0, length) for length in SHAPE],
    }
    image = rng.uniform(0.2, 1, size=(1, *SHAPE)).astype(np.float32)
    return Scene.of(Prepared(image, known), (0, 1, 2), dict(gate_scores))


def phantom(rng):
    """Components of a case with two lesions, one of which is found, and a false positive."""
    foreground = np.zeros(SHAPE, dtype=np.float32)
    reference = np.zeros(SHAPE, dtype=bool)
    reference[2:6, 3:8, 3:8] = reference[8, 17, 18:20] = True
    foreground[2:6, 3:8, 3:8], foreground[7:9, 3:5, 15:18] = 0.9, 0.4
    options = {"thresholds": (0.3, 0.5), "spacing": (1.0, 1.0, 1.0)}
    return find_components(foreground, reference, scene=scene_of(rng), **options)


def test_components_of_cases_find_their_own_lesions(rng):
    joined = Components.join([phantom(rng), phantom(rng)])
    candidates = joined.candidates
    assert candidates.threshold.tolist() == [0, 0, 1] * 2
    assert candidates.case.tolist() == [0] * 3 + [1] * 3
    assert candidates.is_true.tolist() == [True, False, True] * 2
    assert joined.is_found().tolist() == [True, False] * 2
    strict = joined.of(candidates.threshold == 1)
    counts = strict.counts(np.array([2, 2]))
    assert (counts.found.tolist(), counts.false_positives.tolist()) == ([1, 1], [0, 0])
    assert not joined.of(~candidates.is_true).is_found().any()


def test_scores_of_gates_are_used_only_if_asked_for(rng):
    scene = scene_of(rng, gate_scores={"1/2": np.ones((5, 10, 11))})
    assert RejectorSettings().scene(scene).gate_scores == {}
    assert RejectorSettings(gates=True).scene(scene) is scene
    with pytest.raises(SGNetError, match="--rejector gates: this engine does not give"):
        RejectorSettings(gates=True).scene(scene_of(rng))


def test_tuning_with_a_rejector_reports_it_and_writes_it(rng, tmp_path):
    components = drawn(rng, tell=6.0)
    grid = SearchGrid(thresholds=(0.5,), volumes_mm3=(0.0,))
    counts = components.counts(np.bincount(components.case, minlength=CASES))
    cases = [
        PredictedCase(
            model="m", fold=group[-1], name=name, patient=name, reference=Path("r"), prediction=None
        )
        for group, name in zip(GROUPS, PATIENTS, strict=True)
    ]
    at_grid = LesionCounts(counts.lesions, *(each[:, None, None] for each in list(vars(counts).values())[1:]))
    provenance = Provenance(model="D/M", engine="sparse", folds=("0", "1", "2"), weights_sha256="abc")
    plain = choose_operating_point(cases, at_grid, counts, provenance, grid=grid)
    tuning = with_rejector(plain, cases, components)
    assert (
        tuning.cross_validated.false_positives_per_case < 0.5 < plain.cross_validated.false_positives_per_case
    )
    assert tuning.improvement["false_positives_per_case"].value < -2
    assert "; a component rejector" in str(tuning.point)
    for one, version in ((plain, 4), (tuning, 5)):
        write_tuning(tmp_path / "point.json", one)
        content = json.loads((tmp_path / "point.json").read_text())
        assert content["version"] == version
        assert ("rejection" in content) == ("rejector" in content["point"]) == (version == 5)
        assert read_operating_point(tmp_path / "point.json").point == one.point
    assert replace(tuning.point, rejector=None, calibration=None) == plain.point
