import numpy as np
import torch

from sgnet_nnunet.training.gate_monitor import count_gates, warnings_of


def masks(*boxes, size=8):
    mask = torch.zeros(1, 1, size, size, size, dtype=torch.bool)
    for box in boxes:
        mask[(0, 0, *(slice(*ends) for ends in box))] = True
    return mask


WHOLE = ((0, 8), (0, 8), (0, 8))
CORNER = ((0, 2), (0, 2), (0, 2))
FAR = ((5, 7), (5, 7), (5, 7))


def test_counts_voxels_and_lesions_at_every_gate():
    coarse = masks(((0, 1), (0, 1), (0, 1)), size=2)  # the lower 4 x 4 x 4 voxels
    counts = count_gates([coarse, masks(((0, 1), (0, 2), (0, 2)))], masks(CORNER, FAR))
    assert counts.open_fraction == [64 / 512, 4 / 512]
    assert counts.admitted_voxel_share == [0.5, 0.25]
    assert counts.admitted_lesion_share == [0.5, 0.5]


def test_lesions_that_touch_by_a_corner_are_one():
    counts = count_gates([masks(CORNER)], masks(CORNER, ((2, 3), (2, 3), (2, 3))))
    assert counts.lesions.tolist() == [1]


def test_counts_of_batches_add_up():
    one = count_gates([masks(CORNER)], masks(CORNER))
    two = count_gates([masks(CORNER)], masks(FAR))
    assert (one + two).admitted_lesion_share == [0.5]
    assert (one + two).voxels.tolist() == [1024]


def test_image_without_a_lesion_has_no_share_and_no_warning():
    counts = count_gates([masks()], masks())
    assert np.isnan(counts.admitted_voxel_share + counts.admitted_lesion_share).all()
    assert warnings_of(counts, ["1/2"]) == []


def test_shut_out_lesions_are_warned_of_in_plain_words():
    voxels, lesions = warnings_of(count_gates([masks(CORNER)], masks(CORNER, FAR)), ["1/2"])
    assert voxels.startswith(
        "WARNING: the gate at 1/2 of the resolution shuts out 50.0% of the lesion voxels"
    )
    assert "50.0% of the whole lesions" in lesions
    assert "positive_weight" in lesions


def test_gate_that_admits_all_is_not_warned_of():
    assert warnings_of(count_gates([masks(WHOLE)], masks(CORNER)), ["1/2"]) == []
