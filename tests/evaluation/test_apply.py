import numpy as np
import pytest

from sgnet_nnunet.evaluation.operating_point import (
    OperatingPoint,
    apply_operating_point,
    foreground_probability,
)

ISOTROPIC = (1.0, 1.0, 1.0)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=0))
    return (exp / exp.sum(axis=0)).astype(np.float32)


def random_probabilities(heads, *, regions, seed=0):
    logits = np.random.default_rng(seed).normal(scale=2, size=(heads, 9, 10, 11))
    return (1 / (1 + np.exp(-logits))).astype(np.float32) if regions else softmax(logits)


def one_label(tumour):
    return np.stack([1 - tumour, tumour]).astype(np.float32)


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("regions", 2)])
def test_the_default_point_gives_nnunets_own_segmentation(label_managers, kind, heads):
    manager = label_managers[kind]
    probabilities = random_probabilities(heads, regions=kind == "regions")
    expected = manager.convert_probabilities_to_segmentation(probabilities)
    got = apply_operating_point(probabilities, OperatingPoint(threshold=0.5), manager, ISOTROPIC)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_foreground_is_above_the_threshold_and_keeps_its_most_probable_class(label_managers):
    # Voxels: background likeliest but foreground above 0.3; core beats oedema; foreground of 0.25 only.
    probabilities = np.array([[0.6, 0.1, 0.75], [0.1, 0.2, 0.2], [0.25, 0.6, 0.03], [0.05, 0.1, 0.02]])
    got = apply_operating_point(
        probabilities.reshape(4, 1, 1, 3),
        OperatingPoint(threshold=0.3),
        label_managers["three labels"],
        ISOTROPIC,
    )
    assert got.ravel().tolist() == [2, 2, 0]


def test_each_region_is_cut_at_the_threshold_in_nnunets_order(label_managers):
    # whole only; both; core alone, without the whole around it; neither.
    probabilities = np.array([[0.4, 0.9, 0.1, 0.2], [0.2, 0.35, 0.4, 0.2]]).reshape(2, 1, 1, 4)
    got = apply_operating_point(
        probabilities, OperatingPoint(threshold=0.3), label_managers["regions"], ISOTROPIC
    )
    assert got.ravel().tolist() == [1, 2, 2, 0]


def test_lesions_are_removed_whole_by_their_volume_in_mm3(label_managers):
    tumour = np.zeros((3, 6, 6))
    tumour[0, 0, 0] = tumour[1, 1, 1] = tumour[2, 2, 2] = 0.9  # three voxels by their corners: one lesion
    tumour[0, 5, 3:5] = 0.9  # two voxels
    spacing = (5.0, 0.5, 0.5)  # 1.25 mm3 a voxel
    manager = label_managers["one label"]
    for smallest, voxels in [(0, 5), (2.5, 5), (2.6, 3), (3.75, 3), (3.8, 0)]:
        point = OperatingPoint(threshold=0.5, smallest_lesion_mm3=smallest)
        assert apply_operating_point(one_label(tumour), point, manager, spacing).sum() == voxels


def test_lesion_of_two_classes_is_one_lesion(label_managers):
    probabilities = np.zeros((4, 1, 1, 4), dtype=np.float32)
    probabilities[0] = 1
    probabilities[:, 0, 0, 1], probabilities[:, 0, 0, 2] = (0, 1, 0, 0), (0, 0, 1, 0)
    point = OperatingPoint(threshold=0.5, smallest_lesion_mm3=2)
    got = apply_operating_point(probabilities, point, label_managers["three labels"], ISOTROPIC)
    assert got.ravel().tolist() == [0, 1, 2, 0]


def test_empty_prediction_stays_empty(label_managers):
    got = apply_operating_point(
        one_label(np.zeros((3, 3, 3))), OperatingPoint(threshold=0.02), label_managers["one label"], ISOTROPIC
    )
    assert not got.any()


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("three labels", 4), ("regions", 2)])
def test_a_higher_threshold_never_adds_foreground(label_managers, kind, heads):
    manager = label_managers[kind]
    probabilities = random_probabilities(heads, regions=kind == "regions", seed=3)
    foreground = foreground_probability(probabilities, manager)
    previous = np.ones(foreground.shape, dtype=bool)
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        mask = (
            apply_operating_point(probabilities, OperatingPoint(threshold=threshold), manager, ISOTROPIC) > 0
        )
        np.testing.assert_array_equal(mask, foreground > threshold)
        assert not (mask & ~previous).any()
        previous = mask
