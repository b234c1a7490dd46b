import matplotlib.image
import numpy as np
import pytest

from sgnet_nnunet.demo import CaseFiles, draw_overlay
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 500, size=(20, 24, 6)).astype(np.int16)
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[5:9, 5:9, 3] = 1
    paths = {}
    for name, data in {"t1ce": image, "flair": image, "reference": mask, "prediction": mask * 0}.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        write_volume(paths[name], Volume(data, np.diag([-1.0, 1, 1, 1])))
    return CaseFiles(name="case", **paths)


def test_picture_has_a_row_a_case(case, tmp_path):
    heights = []
    for cases in ([case], [case, case]):
        draw_overlay(cases, tmp_path / "overlay.png")
        heights.append(matplotlib.image.imread(tmp_path / "overlay.png").shape[0])
    assert heights[1] == 2 * heights[0]


def test_truth_is_outlined_in_green(case, tmp_path):
    draw_overlay([case], tmp_path / "overlay.png")
    picture = matplotlib.image.imread(tmp_path / "overlay.png")
    assert ((picture[..., 1] > 0.7) & (picture[..., 0] < 0.4)).any()


def test_empty_prediction_is_drawn_without_contour(case, tmp_path):
    draw_overlay([case], tmp_path / "overlay.png")
    picture = matplotlib.image.imread(tmp_path / "overlay.png")
    assert not ((picture[..., 0] > 0.9) & (picture[..., 1] < 0.5)).any()
