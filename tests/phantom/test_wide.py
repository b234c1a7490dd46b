"""The wide population."""

import numpy as np
import pytest

from sgnet_nnunet.phantom.config import CALIBRATED_LEVELS, PhantomConfig
from sgnet_nnunet.phantom.population import draw_ids, draw_patient, patient_rng, write_phantoms
from sgnet_nnunet.phantom.wide import WIDE, WIDE_LEVELS, WidePopulation

COARSE = {
    "t1ce_in_plane": (2.0, 2.2),
    "t1ce_slice": (2.0, 2.4),
    "flair_in_plane": (1.8, 2.0),
    "flair_slice": (5.0, 6.0),
}


def draws(population, count):
    return [population.draw(np.random.default_rng(seed)) for seed in range(count)]


def test_patients_differ_in_every_respect():
    configs = draws(WIDE, 60)
    medians = [config.diameter_median for config in configs]
    assert min(medians) < 8
    assert max(medians) > 35
    for damage in ("cavities", "confluent"):
        assert 0.05 < np.mean([bool(getattr(config.pathology, damage)) for config in configs]) < 0.6
    for fault in ("missing", "dura"):
        assert 0.2 < np.mean([bool(getattr(config.artefacts, fault)) for config in configs]) < 0.7


def test_the_same_generator_draws_the_same_patient():
    assert draws(WIDE, 3) == draws(WIDE, 3)


def test_a_share_of_the_patients_is_calibrated():
    calibrated = [config == PhantomConfig() for config in draws(WidePopulation(calibrated=0.3), 100)]
    assert 0.15 < np.mean(calibrated) < 0.45
    assert all(config == PhantomConfig() for config in draws(WidePopulation(calibrated=1.0), 3))


@pytest.mark.parametrize("sequence", ["t1ce", "flair"])
@pytest.mark.parametrize("tissue", CALIBRATED_LEVELS)
def test_contrasts_reach_at_least_as_far_as_the_calibrated_ones(tissue, sequence):
    # On T1ce the calibrated `enhancing` is a share of the vessels' enhancement.
    if (tissue, sequence) == ("enhancing", "t1ce"):
        return
    low, high = CALIBRATED_LEVELS[tissue][sequence]
    wide_low, wide_high = WIDE_LEVELS[tissue][sequence]
    assert wide_low <= low
    assert wide_high >= high
    assert wide_high - wide_low > 1.5 * (high - low)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_patient_is_sound(seed):
    rng = patient_rng(seed, 0)
    draw_ids(rng)
    volumes = draw_patient(rng, WidePopulation(scanner=COARSE).draw(rng))
    assert volumes["core_seg"].data.any()
    for image, mask in (("t1ce_img", "core_seg"), ("flair_img", "whole_seg")):
        data, inside = volumes[image].data, volumes[mask].data > 0
        assert data.dtype == np.int16
        assert data.min() == 0
        assert (data[inside] > 0).all()
        assert np.unique(data).size > 50
    share = (volumes["whole_seg"].data > 0).sum() / (volumes["flair_img"].data > 0).sum()
    assert share < 0.3


@pytest.mark.slow
def test_same_seed_gives_the_same_files_whatever_the_workers(tmp_path):
    population = WidePopulation(scanner=COARSE)
    for name, workers in (("one", 1), ("two", 2)):
        write_phantoms(tmp_path / name, patients=2, seed=4, workers=workers, config=population)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.nii.gz")}
        for name in ("one", "two")
    )
    assert len(one) == 8
    assert one == two
