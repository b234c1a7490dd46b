import ast
import importlib
import inspect
import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner

import sgnet_nnunet
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nnunet import (
    FRAGILE_NAMES,
    changed_folds,
    find_cases,
    find_images,
    find_masks,
    find_model_folder,
    nnunet_folder,
    prints_to_log,
)

PACKAGE = Path(sgnet_nnunet.__file__).parent
MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"


class TestFolders:
    def test_a_folder_comes_from_its_variable(self, nnunet_paths, monkeypatch):
        assert nnunet_folder("nnUNet_raw") == nnunet_paths / "nnUNet_raw"
        monkeypatch.delenv("nnUNet_raw")
        with pytest.raises(SGNetError, match="nnUNet_raw is not set; run: export nnUNet_raw="):
            nnunet_folder("nnUNet_raw")

    def test_a_model_is_found_by_its_data_sets_number_or_name(self, nnunet_paths):
        model = nnunet_paths / "nnUNet_results/Dataset501_Tiny" / MODEL
        model.mkdir(parents=True)
        assert find_model_folder("501", MODEL) == find_model_folder("Dataset501_Tiny", MODEL) == model

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            ("77", "no data set Dataset077_"),
            ("brains", "neither a number nor"),
            ("1", "the same number"),
        ],
    )
    def test_a_data_set_that_is_not_one_is_refused(self, nnunet_paths, dataset, message):
        for name in ("nnUNet_raw/Dataset001_A", "nnUNet_results/Dataset001_B"):
            (nnunet_paths / name).mkdir()
        with pytest.raises(SGNetError, match=message):
            find_model_folder(dataset, MODEL)

    def test_nnunets_variables_are_read_in_one_module(self):
        for path in PACKAGE.rglob("*.py"):
            reads = "environ" in path.read_text() and "nnUNet_results" in path.read_text()
            assert not reads or path.name == "nnunet.py", path


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


class TestCases:
    def test_cases_come_in_order_with_their_channels(self, tmp_path):
        names = ("b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz", "a_1_0001.nii.gz", "c_0000.nrrd")
        cases = find_cases(touch(tmp_path, *names), file_ending=".nii.gz", channels=2)
        assert list(cases) == ["a_1", "b"]
        assert [path.name for path in cases["b"]] == ["b_0000.nii.gz", "b_0001.nii.gz"]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["a_0001.nii.gz"], r"a_0000\.nii\.gz: there is no such file; .* 2 channels"),
            ([f"a_{c:04d}.nii.gz" for c in range(3)], r"a_0002\.nii\.gz: is one channel too many"),
            (["a_0000.nii"], r"holds no file \*_0000\.nii\.gz"),
        ],
    )
    def test_a_missing_or_extra_channel_is_named(self, tmp_path, names, message):
        with pytest.raises(InputFileError, match=message):
            find_cases(touch(tmp_path, *names), file_ending=".nii.gz", channels=2)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(InputFileError, match=r"holds no file \*_0000\.nii\.gz"):
            find_cases(tmp_path / "nowhere", file_ending=".nii.gz", channels=1)


def write_splits(folder, folds):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "splits_final.json"
    path.write_text(json.dumps([{"train": list(train), "val": list(val)} for train, val in folds]))
    return path


class TestChangedFolds:
    DATASET = "Dataset501_Tiny"

    def test_they_are_found_exactly_where_nnunet_fails(self, nnunet_paths):
        rng = np.random.default_rng(0)
        raw, preprocessed = (
            nnunet_paths / name / self.DATASET for name in ("nnUNet_raw", "nnUNet_preprocessed")
        )
        found = []
        for _ in range(300):
            used, made = ([], [])
            for _ in range(3):
                cases = rng.permutation(list("abcd"))
                used.append((cases[1:], cases[:1]))
                # Most folds are the same, in another order of the cases.
                other = cases if rng.random() < 0.8 else rng.permutation(list("abcde"))
                made.append((other[1:][::-1], other[:1]))
            used, made = used[: rng.integers(1, 4)], made[: rng.integers(1, 4)]
            copy, original = write_splits(preprocessed, used), write_splits(raw, made)
            try:
                default_experiment_planner._maybe_copy_splits_file(str(original), str(copy))
                fails = False
            except (AssertionError, IndexError):
                fails = True
            found.append(fails)
            for dataset in (self.DATASET, raw):
                assert (changed_folds(dataset) is not None) is fails, (used, made)
        assert 30 < sum(found) < 270

    def test_the_file_the_cases_and_the_models_are_named(self, nnunet_paths):
        copy = write_splits(nnunet_paths / "nnUNet_preprocessed" / self.DATASET, [("ab", "c")])
        write_splits(nnunet_paths / "nnUNet_raw" / self.DATASET, [("acd", "ef")])
        error = changed_folds(self.DATASET)
        assert error.path == copy
        assert "3 cases are new, 1 are gone" in error.problem
        assert error.remedy == "delete the file, then plan again with --clean"
        results = nnunet_paths / "nnUNet_results" / self.DATASET
        for fold in ("A__p__c/fold_0", "A__p__c/fold_1", "B__p__c/fold_all", "C__p__c/fold_0"):
            (results / fold).mkdir(parents=True)
        for weights in ("A__p__c/fold_0", "A__p__c/fold_1", "B__p__c/fold_all"):
            (results / weights / "checkpoint_latest.pth").touch()
        error = changed_folds(self.DATASET)
        assert error.problem.endswith("these models were trained by them: A__p__c")
        assert error.remedy.startswith("to keep those, use another data set (-d)")

    @pytest.mark.parametrize("absent", ["nnUNet_raw", "nnUNet_preprocessed"])
    def test_without_both_files_there_is_nothing_to_compare(self, nnunet_paths, monkeypatch, absent):
        copy = write_splits(nnunet_paths / "nnUNet_preprocessed" / self.DATASET, [("a", "b")])
        original = write_splits(nnunet_paths / "nnUNet_raw" / self.DATASET, [("b", "a")])
        elsewhere = nnunet_paths / "elsewhere" / self.DATASET
        write_splits(elsewhere, [("b", "a")])
        assert changed_folds(elsewhere) is None
        with monkeypatch.context() as patch:
            patch.delenv(absent)
            assert changed_folds(self.DATASET) is None
        (original if absent == "nnUNet_raw" else copy).unlink()
        assert changed_folds(self.DATASET) is None


PREFIXES = st.sampled_from((".", "..", "._", ".partial-", ".~", ".DS_Store"))


class TestHiddenFiles:
    """macOS's `._*` and `.DS_Store`, and what a killed writer leaves, are no cases."""

    @staticmethod
    def found(folder):
        cases = find_cases(folder / "images", file_ending=".nii.gz", channels=2)
        masks = find_masks(folder / "labels")
        return cases, masks, {name: find_images(folder / "images", name) for name in masks}

    @settings(deadline=None, max_examples=50)
    @given(data=st.data())
    def test_no_finder_takes_one_for_a_case(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("hidden")
        names = {"images": [f"{case}_{c:04d}.nii.gz" for case in "ab" for c in range(2)]}
        names |= {"labels": [f"{case}.nii{ending}" for case, ending in zip("ab", (".gz", ""), strict=True)]}
        for kind, files in names.items():
            (folder / kind).mkdir()
            touch(folder / kind, *files)
        expected = self.found(folder)
        for kind, files in names.items():
            drawn = st.builds("{}{}".format, PREFIXES, st.sampled_from([*files, "b_0002.nii.gz", "c.nii"]))
            touch(folder / kind, *data.draw(st.lists(drawn)))
            for name in data.draw(st.lists(drawn, max_size=1)):
                (folder / kind / f"{name}.nii.gz").mkdir()
        assert self.found(folder) == expected


def test_prints_go_to_the_log_and_warnings_are_seen(caplog, capsys):
    caplog.set_level(logging.DEBUG, "sgnet_nnunet")
    with prints_to_log():
        sys.stdout.write("There are 2 cases in the source folder\n")
        thread = threading.Thread(target=print, args=("WARNING! Not all images have the same affine",))
        thread.start()
        thread.join()
    sys.stdout.write("afterwards\n")
    assert capsys.readouterr().out == "afterwards\n"
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "nnU-Net: There are 2 cases in the source folder"),
        ("WARNING", "nnU-Net: WARNING! Not all images have the same affine"),
    ]


class TestFragileNames:
    @pytest.mark.parametrize(
        ("module", "name"), [(module, name) for module, names in FRAGILE_NAMES.items() for name in names]
    )
    def test_each_exists_in_the_installed_nnunet(self, module, name):
        found = importlib.import_module(module)
        for part in name.split("."):
            assert hasattr(found, part), f"nnU-Net has renamed {module}.{name}; sgnet_nnunet relies on it"
            found = getattr(found, part)

    def test_each_private_method_that_is_overridden_is_listed(self):
        listed = {name.rpartition(".")[2] for names in FRAGILE_NAMES.values() for name in names}
        overridden = {
            name
            for module in ours_with_nnunet()
            for _, cls in inspect.getmembers(importlib.import_module(module), inspect.isclass)
            if cls.__module__ == module
            for name in vars(cls)
            if name.startswith("_")
            and not name.startswith(("__", "_abc"))
            and inherited_from_nnunet(cls, name)
        }
        assert overridden <= listed


def ours_with_nnunet():
    """Return the names of this package's modules that define a class and import nnU-Net's at the top."""
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        if any(name.startswith(("nnunetv2", "batchgenerators")) for name in modules):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def inherited_from_nnunet(cls, name):
    return any(
        name in vars(base)
        for base in cls.__mro__[1:]
        if base.__module__.startswith(("nnunetv2", "batchgenerators"))
    )
