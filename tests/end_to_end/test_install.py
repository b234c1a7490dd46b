import subprocess
import sys
import venv
from pathlib import Path

import pytest

from sgnet_nnunet.plugin.shims import SHIMS

ROOT = Path(__file__).parents[2]

# pip builds in the checkout: never twice at once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("install")]


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory):
    """Return the folder of a virtual environment with pip alone."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    return folder


def pip(environment, *arguments):
    subprocess.run([environment / "bin/python", "-m", "pip", "-q", *arguments], check=True)


def faces_in(environment):
    return {
        shim.path for shim in SHIMS for path in environment.rglob(f"nnunetv2/{shim.path}") if path.is_file()
    }


def test_pip_places_the_faces_and_removes_them(bare_environment):
    pip(bare_environment, "install", "--no-deps", str(ROOT))
    assert faces_in(bare_environment) == {shim.path for shim in SHIMS}
    pip(bare_environment, "uninstall", "--yes", "sgnet-nnunet")
    assert faces_in(bare_environment) == set()


def test_editable_install_places_none(bare_environment):
    pip(bare_environment, "install", "--no-deps", "--editable", str(ROOT))
    assert faces_in(bare_environment) == set()
    pip(bare_environment, "uninstall", "--yes", "sgnet-nnunet")


def test_spawned_worker_finds_the_same_class():
    code = (
        "import multiprocessing, pickle\n"
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "if __name__ == '__main__':\n"
        "    here = find('SGNetTrainer')\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.apply(find, ['SGNetTrainer']) is here\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
