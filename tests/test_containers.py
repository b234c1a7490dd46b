"""The container recipes agree with the repository; they are built where there is Docker or Apptainer."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = [ROOT / "containers/Dockerfile", ROOT / "containers/sgnet.def"]


@pytest.fixture(scope="module")
def setup_arguments():
    """Return the arguments that setup.py passes to setuptools."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **arguments: found.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def sources(recipe):
    """Return the paths that a recipe copies from the repository."""
    text = recipe.read_text(encoding="utf-8")
    if recipe.name == "Dockerfile":
        lines = re.findall(r"^COPY (?!--)(.+) \S+$", text, flags=re.MULTILINE)
        return {path for line in lines for path in line.split()}
    section = text.partition("%files\n")[2].partition("\n\n")[0]
    return {line.split()[0] for line in section.splitlines()}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_extras_and_python_are_those_of_the_package(recipe, setup_arguments):
    text = recipe.read_text(encoding="utf-8")
    named = [each.split(",") for each in re.findall(r"EXTRAS=([\w,]+)", text, flags=re.IGNORECASE)]
    assert len(named) >= 2  # for CPUs, and for GPUs
    assert {extra for extras in named for extra in extras} <= set(setup_arguments["extras_require"])
    python = re.search(r"PYTHON=3\.(\d+)", text, flags=re.IGNORECASE)
    assert int(python[1]) >= int(setup_arguments["python_requires"].removeprefix(">=3."))
    (torch,) = (each for each in setup_arguments["install_requires"] if each.startswith("torch"))
    assert f'"{torch}"' in text


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_nothing_else_reaches_the_build(recipe):
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sources(recipe) == {line[1:] for line in allowed if line.startswith("!")}
    assert all((ROOT / path).exists() for path in sources(recipe))
    assert "*" in allowed


def test_image_runs_the_command_and_not_as_root(setup_arguments):
    lines = RECIPES[0].read_text(encoding="utf-8").splitlines()
    (script,) = setup_arguments["entry_points"]["console_scripts"]
    assert f'ENTRYPOINT ["{script.partition("=")[0]}"]' in lines
    assert [line for line in lines if line.startswith("USER")][-1] not in {"USER root", "USER 0"}
