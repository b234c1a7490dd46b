import numpy as np

from sgnet_nnunet.evaluation.froc import Counts
from sgnet_nnunet.evaluation.tuning import gain_of

PATIENTS = [f"p{i // 2}" for i in range(12)]


def counts(found, false, lesions=4):
    return Counts(np.full(12, lesions), np.broadcast_to(found, 12), np.broadcast_to(false, 12))


def test_gain_is_the_difference_of_the_pooled_figures():
    tuned, default = counts(3, 1), counts(2, 2)
    gain = gain_of(tuned, default, patients=PATIENTS)
    assert gain.f1.value == tuned.pooled.f1 - default.pooled.f1
    assert gain.sensitivity.value == 0.25
    assert gain.false_positives_per_case.value == -1


def test_patients_who_are_all_alike_leave_no_doubt():
    gain = gain_of(counts(3, 1), counts(2, 2), patients=PATIENTS)
    assert gain.sensitivity.low == gain.sensitivity.high == 0.25


def test_no_difference_gains_nothing():
    gain = gain_of(counts(2, 2), counts(2, 2), patients=PATIENTS)
    assert (gain.f1.low, gain.f1.value, gain.f1.high) == (0, 0, 0)


def test_a_gain_of_one_patient_is_not_sure():
    found = np.full(12, 2)
    found[:2] = 4
    gain = gain_of(counts(found, 1), counts(2, 1), patients=PATIENTS)
    assert gain.sensitivity.low == 0 < gain.sensitivity.value < gain.sensitivity.high


def test_two_scans_of_a_patient_are_drawn_together():
    rng = np.random.default_rng(0)
    found = np.repeat(rng.integers(0, 5, size=6), 2)
    together = gain_of(counts(found, 1), counts(2, 1), patients=PATIENTS).sensitivity
    apart = gain_of(counts(found, 1), counts(2, 1), patients=[str(i) for i in range(12)]).sensitivity
    assert together.high - together.low > 1.2 * (apart.high - apart.low)


def test_the_same_counts_give_the_same_interval():
    rng = np.random.default_rng(1)
    tuned = counts(rng.integers(0, 5, size=12), rng.integers(0, 9, size=12))
    assert gain_of(tuned, counts(2, 2), patients=PATIENTS) == gain_of(tuned, counts(2, 2), patients=PATIENTS)


def test_one_patient_has_a_gain_without_an_interval():
    gain = gain_of(counts(3, 1), counts(2, 1), patients=["p"] * 12)
    assert gain.sensitivity.value == 0.25
    assert np.isnan([gain.sensitivity.low, gain.sensitivity.high]).all()
