import numpy as np
import pytest

from sgnet_nnunet.evaluation.operating_point import OperatingPoint, is_kept


@pytest.mark.parametrize(
    ("threshold", "smallest", "message"),
    [
        (0.0, 0.0, "threshold must be between 0 and 1; got 0.0"),
        (1.0, 0.0, "threshold must be between 0 and 1; got 1.0"),
        (float("nan"), 0.0, "threshold must be"),
        (0.5, -1.0, r"smallest lesion must have 0 mm3 or more; got -1\.0"),
        (0.5, float("inf"), "smallest lesion must have"),
    ],
)
def test_impossible_points_are_refused(threshold, smallest, message):
    with pytest.raises(ValueError, match=message):
        OperatingPoint(threshold=threshold, smallest_lesion_mm3=smallest)


def test_point_says_what_it_does():
    assert str(OperatingPoint(threshold=0.35, smallest_lesion_mm3=20)) == (
        "threshold 0.35, below 20 mm3 removed"
    )
    assert str(OperatingPoint(threshold=0.5)) == "threshold 0.5, nothing removed"


def test_lesion_of_the_smallest_volume_is_kept_even_if_the_header_rounds_down():
    volumes = np.array([5 * 0.9999999, 5.0, 4.9])
    assert is_kept(volumes, 5.0).tolist() == [True, True, False]
