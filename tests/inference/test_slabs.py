import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import engines as slabs
from sgnet_nnunet.inference.engines import SlabEngine, bytes_of_deep, bytes_per_voxel
from sgnet_nnunet.inference.sparse import StagedEngine


@pytest.fixture
def engine(gated):
    return StagedEngine(*gated, skip=True)


def budget_for(engine, shape, planes):
    """Return the bytes that leave room for slabs of so many planes, margins included."""
    _, z, y, x = shape
    plane = bytes_per_voxel(engine.description) * y * x + 4 * engine.heads * y * x
    return bytes_of_deep(engine.description) + 4 * engine.heads * z * y * x + planes * plane


def test_slabs_give_the_logits_of_the_whole_image(engine, rng, smooth_image, monkeypatch):
    image = smooth_image(rng, (160, 24, 24))
    whole = engine.logits(image)
    slab = SlabEngine(engine)
    planes = 2 * engine.description.margin + 16
    monkeypatch.setattr(slab, "_free", lambda: budget_for(engine, image.shape, planes))
    seen = []
    monkeypatch.setattr(engine, "logits", lambda part: seen.append(part.shape[1]) or _run(engine, part))
    logits = slab.logits(image)
    assert len(seen) == 10
    assert max(seen) <= planes
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    assert np.array_equal(logits[1] > logits[0], whole[1] > whole[0])


def _run(engine, part):
    return type(engine).logits(engine, part)


def test_nothing_beyond_the_margin_changes_a_logit(engine, rng, smooth_image):
    reach = 36  # rounded up to the margin of 40
    middle = slice(40, 48)
    image = smooth_image(rng, (96, 24, 24))
    changed = image.copy()
    changed[:, : middle.start - reach] = 0
    changed[:, middle.stop + reach :] = 1
    logits = engine.logits(image)
    assert not np.array_equal(engine.logits(changed), logits)
    np.testing.assert_allclose(engine.logits(changed)[:, middle], logits[:, middle], atol=1e-6)


def test_image_that_fits_is_run_at_once(engine, rng, smooth_image, monkeypatch):
    image = smooth_image(rng, (24, 16, 16))
    calls = []
    monkeypatch.setattr(engine, "logits", lambda part: calls.append(part.shape) or part)
    SlabEngine(engine).logits(image)
    assert calls == [image.shape]


def test_budget_that_cannot_be_met_names_what_is_short(engine, rng, smooth_image):
    with pytest.raises(SGNetError, match=r"24 x 16 x 16 voxels needs [\d.]+ GB more than the budget leaves"):
        SlabEngine(engine, max_memory=1).logits(smooth_image(rng, (24, 16, 16)))


def test_budget_counts_what_the_process_has_taken(engine, monkeypatch):
    monkeypatch.setattr(slabs.psutil, "virtual_memory", lambda: type("M", (), {"available": 10**12}))
    taken = slabs.psutil.Process().memory_info().rss
    assert SlabEngine(engine, max_memory=10**10)._free() == pytest.approx(10**10 - taken, rel=0.05)
    assert SlabEngine(engine)._free() == 10**12
