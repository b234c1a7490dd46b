import json

import numpy as np
import pytest

from sgnet_nnunet.evaluation.operating_point import OperatingPoint, read_operating_point
from sgnet_nnunet.evaluation.tuning import tune, write_record
from sgnet_nnunet.report.figures import draw_tuning


@pytest.fixture
def tuning(make_model, add_case):
    folder, cases = make_model(), []
    for i in range(4):
        tumour = np.zeros((4, 8, 9))
        tumour[0, 0:2, 0:2], tumour[3, 6, 7] = 0.4, 0.9
        cases.append(add_case(folder, f"c{i}", tumour, tumour == 0.4, fold=str(i % 2)))
    return tune(cases, model_folder=folder)


def test_point_comes_back_from_the_file(tuning, tmp_path):
    path = tmp_path / "operating_point.json"
    write_record(path, tuning)
    record = read_operating_point(path)
    assert record.point == tuning.point == OperatingPoint(threshold=0.35, min_lesion_volume_mm3=2)
    assert record.tuned_for.model == "Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["operating_point.json"]


def test_file_says_what_was_done_and_what_it_is_worth(tuning, tmp_path):
    path = tmp_path / "operating_point.json"
    write_record(path, tuning)
    content = json.loads(path.read_text())
    assert (content["format"], content["version"]) == ("sgnet operating point", 2)
    assert (content["tuned_for"]["folds"], content["cases"], content["patients"], content["lesions"]) == (
        ["0", "1"],
        4,
        4,
        4,
    )
    assert content["objective"] == "highest lesion F1"
    assert content["default"] == {
        "f1": 0,
        "sensitivity": 0,
        "false_positives_per_case": 1,
        "found": 0,
        "missed": 4,
        "false_positives": 4,
    }
    assert content["cross_fitted"]["f1"] == content["resubstitution"]["f1"] == 1
    assert content["gain"]["f1"] == {"value": 1, "low": 1, "high": 1}
    assert content["points_chosen_without"]["fold 1"] == {"threshold": 0.35, "min_lesion_volume_mm3": 2}
    curve = content["froc"][0]
    assert len(curve["thresholds"]) == len(curve["sensitivity"]) == len(content["grid"]["thresholds"])


def test_picture_is_a_png_of_some_content(tuning, tmp_path):
    path = tmp_path / "froc.png"
    draw_tuning(tuning, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 10_000
