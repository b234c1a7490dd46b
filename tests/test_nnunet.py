import ast
import importlib
import inspect
import logging
import sys
import threading
from pathlib import Path

import pytest

import sgnet_nnunet
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nnunet import (
    FRAGILE_NAMES,
    find_cases,
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
