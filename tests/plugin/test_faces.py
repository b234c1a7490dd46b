import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from sgnet_nnunet.plugin.shims import SHIMS, write_shims
from sgnet_nnunet.training import baseline_trainers, benchmark_trainers, notebook_trainer, sgnet_trainer

TRAINERS_BY_NAME = {
    name: value
    for module in (sgnet_trainer, notebook_trainer, baseline_trainers, benchmark_trainers)
    for name, value in vars(module).items()
}


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("shim", SHIMS, ids=lambda shim: shim.names[0])
def test_every_face_names_classes_that_exist(shim):
    module = importlib.import_module(shim.module)
    for name in shim.names:
        assert getattr(module, name).__module__ == shim.module


def test_faces_are_one_line_each(package):
    for path in write_shims(package):
        assert len(path.read_text().splitlines()) == 1


def test_faces_are_written_once(package):
    assert len(write_shims(package)) == len(SHIMS)
    assert write_shims(package) == []


def test_an_outdated_face_is_written_anew(package):
    write_shims(package)
    outdated = package / SHIMS[0].path
    outdated.write_text("from somewhere import SGNetTrainer\n")
    assert write_shims(package) == [outdated]
    assert outdated.read_text() == SHIMS[0].text


def test_faces_module_needs_nothing_but_the_standard_library():
    # setup.py runs it before anything is installed.
    file = ROOT / "sgnet_nnunet/plugin/shims.py"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(file)!r})"], check=True
    )


@pytest.mark.parametrize("shim", SHIMS, ids=lambda shim: shim.names[0])
def test_faces_do_not_import_monai(shim):
    # nnU-Net imports every module of a folder to find a class in it, and MONAI takes seconds.
    code = f"import sys; import {shim.module}; sys.exit('monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


TRAINER_MODULES = ("sgnet_trainer", "notebook_trainer", "baseline_trainers")
TRAINERS = [name for shim in SHIMS if shim.module.endswith(TRAINER_MODULES) for name in shim.names]


@pytest.mark.parametrize("name", TRAINERS)
def test_ext_trainer_folder_gives_the_same_class_at_every_look_up(name):
    def look_up():
        folder = str(ROOT / "trainers")
        return recursive_find_python_class(folder, name, None, cleanup_imports_from_base_folder=True)

    assert look_up() is look_up() is TRAINERS_BY_NAME[name]
