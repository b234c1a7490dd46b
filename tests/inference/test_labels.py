"""Labels are read as nnU-Net's `LabelManager` reads them."""

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sgnet_nnunet.inference.plan import labels_of


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ({"background": 0, "tumour": 1}, None),
        ({"background": 0, "tumour": 1}, [1]),
        ({"background": 0, "a": 2, "b": 1, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, [1, 2, 3]),
        ({"background": 0, "whole": [1, 2], "core": (2,), "ignore": 3}, [2, 1]),
        ({"background": 0, "only": [1]}, None),
    ],
)
def test_agrees_with_nnunet(names, order):
    ours, theirs = labels_of(names, order), LabelManager(names, order)
    assert ours.has_regions == theirs.has_regions
    assert ours.heads == theirs.num_segmentation_heads
    assert list(ours.foreground_labels) == theirs.foreground_labels
    if ours.has_regions:
        assert list(ours.regions_class_order) == theirs.regions_class_order


def test_regions_need_an_order_for_each():
    with pytest.raises(ValueError, match="1 entries for 2 regions"):
        labels_of({"background": 0, "whole": [1, 2], "core": [2]}, [1])
