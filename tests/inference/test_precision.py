import logging

import numpy as np
import pytest

from sgnet_nnunet.inference.runtimes import AutoPrecision


class Fixed:
    channels, heads = 2, 2

    def __init__(self, mask):
        self.mask = mask
        self.calls = 0

    def logits(self, _):
        self.calls += 1
        return np.stack([np.zeros(self.mask.shape), np.where(self.mask, 1, -1)]).astype(np.float32)


def masks(differing):
    mask = np.zeros((10, 10, 10), dtype=bool)
    mask[:5] = True
    other = mask.copy()
    other.reshape(-1)[:differing] = False
    return mask, other


@pytest.mark.parametrize(("differing", "chosen"), [(1, "bf16"), (3, "f32")])
def test_bf16_is_kept_if_the_first_mask_agrees(caplog, differing, chosen):
    caplog.set_level(logging.INFO)
    exact, fast = (Fixed(mask) for mask in masks(differing))
    engine = AutoPrecision(exact, fast, background_head=True)
    image = np.zeros((2, 10, 10, 10), dtype=np.float32)
    assert np.array_equal(engine.logits(image)[1] > 0, exact.mask)
    engine.logits(image)
    assert (exact.calls, fast.calls) == ((1, 2) if chosen == "bf16" else (2, 1))
    assert f"precision: {chosen}" in caplog.text


def test_empty_masks_agree():
    empty = np.zeros((4, 4, 4), dtype=bool)
    engine = AutoPrecision(Fixed(empty), Fixed(empty), background_head=True)
    engine.logits(np.zeros((2, 4, 4, 4), dtype=np.float32))
    assert engine._chosen is engine.fast


def test_regions_have_no_background_head():
    mask, _ = masks(0)
    engine = AutoPrecision(Fixed(mask), Fixed(~mask), background_head=False)
    engine.logits(np.zeros((2, 10, 10, 10), dtype=np.float32))
    assert engine._chosen is engine.exact
