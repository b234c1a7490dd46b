"""What steps do besides running commands."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.study import actions
from sgnet_nnunet.study.study_file import LEAVE_ONE_OUT


@pytest.fixture
def raw(make_dataset, tmp_path, monkeypatch):
    """Return the name of a raw data set of five cases, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "nnUNet_raw", cases=5)
    return "nnUNet_raw/Dataset501_Tiny"


def folds_of(raw):
    return json.loads(Path(raw, "splits_final.json").read_text())


def test_every_patient_is_validated_on_once(raw):
    for splits, number in ((None, 5), (LEAVE_ONE_OUT, 5)):
        actions.split(raw, splits)
        folds = folds_of(raw)
        assert len(folds) == number
        assert sorted(case for fold in folds for case in fold["val"]) == [f"case{i}" for i in range(5)]
        assert all(not {*fold["train"]} & {*fold["val"]} for fold in folds)


def test_folds_of_a_file_are_taken_and_the_copy_of_others_goes(raw, tmp_path):
    folds = [{"train": ["case0"], "val": ["case1"]}]
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    copy = tmp_path / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json"
    copy.parent.mkdir(parents=True)
    copy.write_text("[]")
    actions.split(raw, str(tmp_path / "folds.json"))
    assert folds_of(raw) == folds
    assert not copy.exists()
    (tmp_path / "folds.json").write_text(json.dumps([{"train": ["case0"], "val": ["other"]}]))
    with pytest.raises(SGNetError, match="names the case other, which nnUNet_raw/Dataset501_Tiny lacks"):
        actions.split(raw, str(tmp_path / "folds.json"))


def test_nothing_is_written_to_the_users_data_set(raw, tmp_path):
    source = tmp_path / raw
    before = sorted(source.rglob("*"))
    actions.split("other/Dataset501_Tiny", source=str(source))
    assert sorted(source.rglob("*")) == before
    assert len(folds_of("other/Dataset501_Tiny")) == 5
    assert Path("other/Dataset501_Tiny/imagesTr").is_symlink()
    (source / "splits_final.json").write_text(json.dumps([{"train": ["case0"], "val": ["case1"]}]))
    actions.split("other/Dataset501_Tiny", source=str(source))
    assert len(folds_of("other/Dataset501_Tiny")) == 1
    (source / "splits_final.json").unlink()
    actions.split("other/Dataset501_Tiny", source=str(source))
    assert len(folds_of("other/Dataset501_Tiny")) == 5


def test_patch_and_batch_of_three_dimensional_configurations_are_changed(tmp_path):
    path = tmp_path / "plans.json"
    configurations = {"2d": {"patch_size": [8, 8]}, "3d_fullres": {"patch_size": [8, 8, 8], "batch_size": 2}}
    path.write_text(json.dumps({"configurations": configurations}))
    actions.change_plan(str(path), {"patch_size": [4, 4, 4]})
    changed = json.loads(path.read_text())["configurations"]
    assert changed == configurations | {"3d_fullres": {"patch_size": [4, 4, 4], "batch_size": 2}}


def test_settings_of_a_plan_are_merged_key_by_key(tmp_path):
    path = tmp_path / "plans.json"
    kwargs = {"groups": 4, "dilation": 1}
    planned = {
        "patch_size": [8, 8, 8],
        "gate_supervision": {"warm_up": 0.8, "positive_weight": 16.0},
        "architecture": {"arch_kwargs": {"gate_kwargs": kwargs, "gated_levels": [0, 1, 2]}},
    }
    path.write_text(json.dumps({"configurations": {"3d_fullres": planned, "2d": {"patch_size": [8, 8]}}}))
    architecture = {"arch_kwargs": {"gate_kwargs": {"dilation": 2}, "gated_levels": [2]}}
    change = {"loss": {"top_k": 0.1}, "gate_supervision": {"warm_up": 0.2}, "architecture": architecture}
    actions.change_plan(str(path), change)
    changed = json.loads(path.read_text())["configurations"]
    assert changed["2d"] == {"patch_size": [8, 8]}
    assert changed["3d_fullres"] == {
        "patch_size": [8, 8, 8],
        "gate_supervision": {"warm_up": 0.2, "positive_weight": 16.0},
        "architecture": {"arch_kwargs": {"gate_kwargs": kwargs | {"dilation": 2}, "gated_levels": [2]}},
        "loss": {"top_k": 0.1},
    }


def test_a_setting_that_no_plan_has_is_refused_and_the_plan_kept(tmp_path):
    path = tmp_path / "plans.json"
    path.write_text(json.dumps({"configurations": {"3d_fullres": {"patch_size": [8, 8, 8]}}}))
    before = path.read_bytes()
    with pytest.raises(SGNetError, match=r"has no setting los; give one of .*loss, .*patch_size$"):
        actions.change_plan(str(path), {"los": {"top_k": 0.1}})
    assert path.read_bytes() == before


def test_the_masks_of_all_shards_are_in_one_folder_and_one_table(tmp_path):
    rng = np.random.default_rng(0)
    for part in range(2):
        for case in range(2):
            mask = np.zeros((8, 8, 8), np.uint8)
            mask[1 : 1 + part * case, 2, 2] = 1
            path = tmp_path / f"part{part}/c{part}{case}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            write_volume(path, Volume(mask, np.diag([*rng.uniform(1, 1, 3), 1])))
        actions.tabulate(str(tmp_path / f"part{part}"), "images", [], "")
    parts = [str(tmp_path / f"part{part}") for part in range(2)]
    actions.gather(parts, str(tmp_path / "masks"), str(tmp_path / "lesions.csv"))
    table = pd.read_csv(tmp_path / "lesions.csv")
    assert table["case"].tolist() == ["c00", "c01", "c10", "c11"]
    assert table["lesions"].tolist() == [0, 0, 0, 1]
    assert table["volume_mm3"].tolist() == [0, 0, 0, 1]
    assert [path.name for path in sorted((tmp_path / "masks").iterdir())] == [
        f"c{part}{case}.nii.gz" for part in range(2) for case in range(2)
    ]


def test_the_report_has_the_mean_of_every_network_set_and_seed(tmp_path):
    tables = []
    for seed in (0, 1):
        folder = tmp_path / f"validation-s{seed}"
        folder.mkdir()
        rows = {
            "model": ["A", "A", "B"],
            "label": 1,
            "case": ["x", "y", "x"],
            "dice": [0.5, 0.7 + seed / 10, 1],
        }
        pd.DataFrame(rows).to_csv(folder / "per_case.csv")
        tables.append({"path": str(folder / "per_case.csv"), "images": "validation", "seed": seed})
    test = tmp_path / "test-A-s0"
    test.mkdir()
    pd.DataFrame({"label": [1], "case": ["z"], "dice": [0.25]}).to_csv(test / "per_case.csv")
    tables.append({"path": str(test / "per_case.csv"), "images": "test", "seed": 0, "model": "A"})
    actions.report(tables, str(tmp_path))
    found = pd.read_csv(tmp_path / "study.csv").set_index(["images", "model", "seed"])["dice"]
    assert found.to_dict() == {
        ("test", "A", 0): 0.25, ("validation", "A", 0): 0.6, ("validation", "A", 1): 0.65,
        ("validation", "B", 0): 1, ("validation", "B", 1): 1,
    }  # fmt: skip
    page = (tmp_path / "study.html").read_text()
    assert "0.625" in page
    assert 'href="test-A-s0/report.html"' in page


def test_a_study_without_tables_has_an_empty_report(tmp_path):
    actions.report([], str(tmp_path / "reports"))
    assert (tmp_path / "reports/study.csv").read_text() == "images,model,label,seed\n"
