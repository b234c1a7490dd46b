"""Options, and what each target needs and gives."""

import pickle

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sgnet_nnunet.dataset.options import TARGETS, ConversionOptions
from sgnet_nnunet.errors import SGNetError


def test_folder_is_named_as_nnunet_wants_it():
    assert ConversionOptions().folder_name == "Dataset501_BrainMetsLung"
    assert ConversionOptions(dataset_id=7, name="Mets").folder_name == "Dataset007_Mets"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_id": 0}, "data set id 0 is not between 1 and 999"),
        ({"dataset_id": 1000}, "1000"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"workers": 0}, "give 1 or more"),
    ],
)
def test_impossible_options_are_refused(wrong: dict, message: str):
    with pytest.raises(SGNetError, match=message):
        ConversionOptions(**wrong)


def test_options_cross_process_borders():
    options = ConversionOptions(target="regions")
    assert pickle.loads(pickle.dumps(options)) == options


WHOLE = np.array([1, 1, 1, 0], bool).reshape(4, 1, 1)
CORE = np.array([0, 1, 0, 1], bool).reshape(4, 1, 1)


@pytest.mark.parametrize(
    ("target", "masks"),
    [("whole", {"whole_seg"}), ("core", {"core_seg"}), ("regions", {"whole_seg", "core_seg"})],
)
def test_target_asks_for_both_images_and_its_masks_only(target: str, masks: set[str]):
    assert set(TARGETS[target].parts) == {"t1ce_img", "flair_img"} | masks


@pytest.mark.parametrize(
    ("target", "labels"), [("whole", [1, 1, 1, 0]), ("core", [0, 1, 0, 1]), ("regions", [1, 2, 1, 2])]
)
@pytest.mark.parametrize("core_first", [False, True])
def test_core_wins_where_masks_overlap_in_whatever_order_they_come(
    target: str, labels: list[int], core_first: bool
):
    masks = {"core_seg": CORE, "whole_seg": WHOLE} if core_first else {"whole_seg": WHOLE, "core_seg": CORE}
    found = TARGETS[target].label_map(masks)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == labels


@pytest.mark.parametrize("target", TARGETS)
def test_nnunet_finds_every_label_described(target: str):
    description = TARGETS[target].description
    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    assert manager.has_regions == (target == "regions")
    assert manager.all_labels == [0, *sorted(TARGETS[target].masks.values())]


def test_nnunet_turns_both_regions_back_into_the_label_map():
    description = TARGETS["regions"].description
    manager = LabelManager(description["labels"], description["regions_class_order"])
    whole = WHOLE | CORE  # of nnU-Net's nested regions, the whole tumour holds the core
    logits = np.where(np.stack([whole, CORE]), 5.0, -5.0).astype(np.float32)
    labels = manager.convert_logits_to_segmentation(logits)
    np.testing.assert_array_equal(
        labels, TARGETS["regions"].label_map({"whole_seg": WHOLE, "core_seg": CORE})
    )
