from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import Grid, cut_cases, froc_of

GRID = Grid(thresholds=(0.2, 0.5, 0.8))


@pytest.fixture
def model(make_model, add_case):
    """Two cases with three lesions; the weakest is seen at 0.3, and so is a false one."""
    folder = make_model()
    first, second = np.zeros((6, 8, 9)), np.zeros((6, 8, 9))
    first[1, 1:3, 1:3], first[4, 6, 6] = 0.9, 0.6
    second[1, 1:3, 1:3], second[4, 6, 7] = 0.3, 0.3
    reference = first > 0.1
    return folder, [
        add_case(folder, "a", first, reference),
        add_case(folder, "b", second, (second > 0.1) & (np.arange(6) < 3)[:, None, None]),
    ]


def test_curve_is_that_worked_by_hand(model):
    froc = froc_of(model[1], model_folder=model[0], grid=GRID)
    assert froc.thresholds.tolist() == [0.2, 0.5, 0.8]
    np.testing.assert_allclose(froc.sensitivity, [1, 2 / 3, 1 / 3])
    assert froc.false_positives_per_case.tolist() == [0.5, 0, 0]
    assert froc.min_lesion_volume_mm3 == 0


def test_two_workers_give_the_same_curve(model):
    alone, together = (froc_of(model[1], model_folder=model[0], grid=GRID, workers=n) for n in (1, 2))
    np.testing.assert_array_equal(alone.sensitivity, together.sensitivity)


def test_there_is_no_curve_unless_every_case_has_probabilities(model):
    folder, (first, second) = model
    assert froc_of([first, replace(second, probabilities=None)], model_folder=folder) is None
    assert froc_of([], model_folder=folder) is None


def test_bad_file_is_an_error(model):
    folder, cases = model
    cases[1].probabilities.write_bytes(b"")
    with pytest.raises(InputFileError, match=r"b\.npz: cannot be read"):
        froc_of(cases, model_folder=folder)


def test_lesions_below_an_ignore_label_cannot_be_judged(make_model, add_case):
    folder = make_model(labels={"background": 0, "tumour": 1, "ignore": 2})
    cases = [add_case(folder, "a", np.zeros((3, 3, 3)), np.ones((3, 3, 3)))]
    assert froc_of(cases, model_folder=folder) is None
    with pytest.raises(SGNetError, match="has an ignore label"):
        cut_cases(cases, model_folder=folder, thresholds=(0.5,))
