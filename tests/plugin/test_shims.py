import importlib
import inspect
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from sgnet_nnunet.plugin.shims import SHIMS, write_shims

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shim", SHIMS, ids=lambda shim: shim.names[0])
def test_every_shim_names_classes_that_exist(shim):
    module = importlib.import_module(shim.module)
    for name in shim.names:
        assert getattr(module, name).__module__ == shim.module


def test_shims_are_one_line_each(package):
    for path in write_shims(package):
        assert len(path.read_text().splitlines()) == 1


def test_shims_are_written_once(package):
    assert len(write_shims(package)) == len(SHIMS)
    assert write_shims(package) == []


def test_an_outdated_shim_is_written_anew(package):
    write_shims(package)
    outdated = package / SHIMS[0].path
    outdated.write_text("from somewhere import SGNetTrainer\n")
    assert write_shims(package) == [outdated]
    assert outdated.read_text() == SHIMS[0].text


def test_shims_module_needs_nothing_but_the_standard_library():
    # setup.py runs it before anything is installed.
    file = ROOT / "sgnet_nnunet/plugin/shims.py"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(file)!r})"], check=True
    )


@pytest.mark.slow
@pytest.mark.slow
def test_shims_do_not_import_monai():
    # nnU-Net imports every module of a folder to find a class in it, and MONAI takes seconds.
    modules = ", ".join(shim.module for shim in SHIMS)
    code = f"import sys; import {modules}; sys.exit('monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


BASE_CLASSES = {"BaseTrainer", "BaselineTrainer"}


def classes_for_nnunet():
    """Return this package's classes that nnU-Net can look up, by name, base classes aside."""
    kinds = (nnUNetTrainer, ExperimentPlanner, ImageNormalization)
    modules = [
        importlib.import_module(module.name)
        for part in ("training", "planning")
        for module in pkgutil.iter_modules([str(ROOT / "sgnet_nnunet" / part)], f"sgnet_nnunet.{part}.")
    ]
    return {
        name: cls
        for module in modules
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and issubclass(cls, kinds) and name not in BASE_CLASSES
    }


def test_the_shims_name_every_trainer_planner_and_normalisation():
    assert {name for shim in SHIMS for name in shim.names} == set(classes_for_nnunet())


def trainers_of_the_wheel():
    return {name for shim in SHIMS if shim.folder.startswith("training") for name in shim.names}


def test_the_folder_for_a_read_only_nnunet_has_the_trainers_of_the_wheel():
    named = [runpy.run_path(str(file))["__all__"] for file in (ROOT / "trainers").glob("*.py")]
    assert sorted(name for names in named for name in names) == sorted(trainers_of_the_wheel())


@pytest.mark.slow
def test_a_trainer_of_that_folder_is_the_same_class_at_every_look_up():
    def look_up(name):
        folder = str(ROOT / "trainers")
        return recursive_find_python_class(folder, name, None, cleanup_imports_from_base_folder=True)

    for name in trainers_of_the_wheel():
        assert look_up(name) is look_up(name) is classes_for_nnunet()[name]


def test_no_trainer_has_a_name_that_another_extension_uses():
    # SegForge ships a UNetTrainer, and nnU-Net would take ours for it.
    assert "UNetTrainer" not in trainers_of_the_wheel()
