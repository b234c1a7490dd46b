import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from sgnet_nnunet.plugin.shims import FACES, write_faces
from sgnet_nnunet.training import trainers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.names[0])
def test_every_face_names_classes_that_exist(face):
    module = importlib.import_module(face.module)
    for name in face.names:
        assert getattr(module, name).__module__ == face.module


def test_faces_are_one_line_each(package):
    for path in write_faces(package):
        assert len(path.read_text().splitlines()) == 1


def test_faces_are_written_once(package):
    assert len(write_faces(package)) == len(FACES)
    assert write_faces(package) == []


def test_an_outdated_face_is_written_anew(package):
    write_faces(package)
    outdated = package / FACES[0].path
    outdated.write_text("from somewhere import SGNetTrainer\n")
    assert write_faces(package) == [outdated]
    assert outdated.read_text() == FACES[0].text


def test_faces_module_needs_nothing_but_the_standard_library():
    # setup.py runs it before anything is installed.
    file = ROOT / "sgnet_nnunet/plugin/shims.py"
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(file)!r})"], check=True
    )


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.names[0])
def test_faces_do_not_import_monai(face):
    # nnU-Net imports every module of a folder to find a class in it, and MONAI takes seconds.
    code = f"import sys; import {face.module}; sys.exit('monai' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


TRAINERS = next(face for face in FACES if face.module == "sgnet_nnunet.training.trainers").names


@pytest.mark.parametrize("name", TRAINERS)
def test_ext_trainer_folder_gives_the_same_class_at_every_look_up(name):
    def look_up():
        folder = str(ROOT / "trainers")
        return recursive_find_python_class(folder, name, None, cleanup_imports_from_base_folder=True)

    assert look_up() is look_up() is getattr(trainers, name)
