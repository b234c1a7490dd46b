import numpy as np
import pytest
from scipy import ndimage

from sgnet_nnunet.evaluation.froc import count, count_default, levels_of
from sgnet_nnunet.evaluation.lesion_metrics import find_lesions
from sgnet_nnunet.evaluation.operating_point import OperatingPoint, apply_operating_point

THRESHOLDS = (0.2, 0.5, 0.8)


def levels(tumour, reference, manager, *, spacing=(1.0, 1.0, 1.0), thresholds=THRESHOLDS):
    probabilities = np.stack([1 - tumour, tumour]).astype(np.float32)
    return levels_of(probabilities, reference, thresholds=thresholds, label_manager=manager, spacing=spacing)


def test_volumes_of_found_and_false_lesions_are_those_worked_by_hand(label_managers):
    reference, tumour = np.zeros((2, 8, 12), dtype=bool), np.zeros((2, 8, 12))
    reference[0, 0, 0:3] = True  # found up to 0.5: three voxels at 0.2, two at 0.5
    tumour[0, 0, 0:3] = 0.6, 0.6, 0.3
    reference[0, 4, 0] = True  # met by two predicted lesions at 0.5, which are one at 0.2
    reference[0, 4, 2] = True
    tumour[0, 4, 0:5] = 0.9, 0.3, 0.9, 0.9, 0.9
    reference[0, 7, 11] = True  # missed
    tumour[1, 7, 0:2] = 0.7  # false
    result = levels(tumour, reference, label_managers["one label"], spacing=(4.0, 0.5, 0.5))
    assert result.lesions == 4
    found = [level.found_mm3.tolist() for level in result.levels]
    assert found == [[3, 5, 5, 0], [2, 1, 3, 0], [0, 1, 3, 0]]
    assert [level.false_mm3.tolist() for level in result.levels] == [[2], [2], []]
    assert result.default.found_mm3.tolist() == [2, 1, 3, 0]


def blobs(rng, shape, sigma):
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return field / field.std()


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("three labels", 4), ("regions", 2)])
def test_every_count_is_that_of_the_mask_which_prediction_writes(label_managers, kind, heads):
    manager, rng = label_managers[kind], np.random.default_rng(7)
    shape, spacing, volumes = (10, 24, 26), (3.0, 0.7, 0.8), (0.0, 5.04, 20.0, 60.0)
    logits = np.stack([blobs(rng, shape, 1.2) * 2 - 2 * (head > 0) for head in range(heads)])
    exp = np.exp(logits)
    probabilities = (exp / (1 + exp) if kind == "regions" else exp / exp.sum(axis=0)).astype(np.float32)
    reference = blobs(rng, shape, 1.5) > 1.5
    result = levels_of(
        probabilities, reference, thresholds=THRESHOLDS, label_manager=manager, spacing=spacing
    )
    counts, default = count([result], volumes), count_default([result])
    lesions = find_lesions(reference, spacing=spacing)
    assert counts.lesions.tolist() == [lesions.number]

    def counted(mask):
        labels, number = ndimage.label(mask > 0, structure=np.ones((3, 3, 3)))
        true = [i for i in range(1, number + 1) if reference[labels == i].mean() >= 0.1]
        found = set(lesions.labels[np.isin(labels, true) & reference])
        return len(found), number - len(true)

    for i, threshold in enumerate(THRESHOLDS):
        for j, smallest in enumerate(volumes):
            point = OperatingPoint(threshold=threshold, min_lesion_volume_mm3=smallest)
            mask = apply_operating_point(probabilities, point, manager, spacing)
            assert (counts.found[0, i, j], counts.false[0, i, j]) == counted(mask)
    own = counted(manager.convert_probabilities_to_segmentation(probabilities))
    assert (default.found[0], default.false[0]) == own
    assert counts.false[0].min() < counts.false[0].max()


def test_default_foreground_below_the_lowest_threshold_is_not_cropped_away(label_managers):
    tumour, reference = np.zeros((4, 5, 6)), np.zeros((4, 5, 6), dtype=bool)
    tumour[1, 1, 1] = 0.6
    result = levels(tumour, reference, label_managers["one label"], thresholds=(0.9,))
    assert result.default.false_mm3.tolist() == [1]
    assert result.levels[0].false_mm3.size == 0


def test_flood_that_meets_every_lesion_finds_none(label_managers):
    reference, tumour = np.zeros((5, 10, 10), dtype=bool), np.full((5, 10, 10), 0.3)
    reference[0, 0, :3] = reference[4, 9, :3] = reference[2, 5, 5:8] = True
    tumour[reference] = 0.9
    flood, *clean = levels(tumour, reference, label_managers["one label"]).levels
    assert (flood.found_mm3.tolist(), flood.false_mm3.tolist()) == ([0, 0, 0], [500])
    assert all((level.found_mm3.tolist(), level.false_mm3.size) == ([3, 3, 3], 0) for level in clean)


def test_predicted_lesion_is_true_from_a_tenth_of_its_voxels_on(label_managers):
    reference, tumour = np.zeros((1, 1, 11), dtype=bool), np.zeros((1, 1, 11))
    reference[0, 0, 0] = True
    for length, true in [(10, True), (11, False)]:
        tumour[0, 0, :length] = 0.9
        result = levels(tumour, reference, label_managers["one label"], thresholds=(0.5,)).levels[0]
        assert (result.found_mm3.tolist() == [length], result.false_mm3.size == 0) == (true, true)


def test_case_without_lesions_or_predictions_counts_nothing(label_managers):
    nothing = np.zeros((4, 5, 6))
    result = levels(nothing, nothing > 0, label_managers["one label"])
    counts = count([result], (0.0, 10.0))
    assert counts.lesions.tolist() == [0]
    assert not counts.found.any()
    assert not counts.false.any()
