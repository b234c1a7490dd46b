"""The measures of `tools/structure.py`, on a package of three small modules."""

import textwrap
from pathlib import Path

import pytest
import structure

GATES = '''
"""Gates."""

from package.networks import *


def decide(score, threshold=0.5) -> bool:
    """Decide."""
    print(score)
    return score > threshold and threshold > 0
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "package/__init__.py": "",
        "package/networks/__init__.py": "",
        "package/networks/gates.py": GATES,
        "package/training/gates.py": "from package.networks.gates import decide\n\n\nclass Monitor: ...\n",
        "package/command.py": """
            def command(
                images: Annotated[str, typer.Option("-i")],
                output: Annotated[str, typer.Option("-o")],
            ) -> None:
                return None
        """,
        "benchmarks/speed.py": "pass\n" * 3,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.setattr(structure, "PACKAGE", "package")
    return tmp_path


def test_every_measure_names_the_places_it_found(root):
    found = {measure.name: measure for measure in structure.measure(root)}
    assert found["modules"].value == 3
    assert found["lines of benchmarks/"].value == 3
    assert found["file names used twice"].places == ["gates"]
    assert found["modules with a single client"].places == [
        "package.networks <- package.networks.gates",
        "package.networks.gates <- package.training.gates",
    ]
    assert found["functions typed, %"].value == 50
    assert [place.split()[-1] for place in found["functions typed, %"].places] == ["decide"]
    assert [place.split()[-1] for place in found["public things documented, %"].places] == [
        "package/__init__.py", "package/command.py", "command", "package/networks/__init__.py",
        "package/training/gates.py", "Monitor",
    ]  # fmt: skip
    assert found["lines of the longest function"].value == 4
    assert found["complexity"].value == 2
    assert found["imports against the layers"].places == []
    assert found["star imports"].places == ["package/networks/gates.py:4"]
    assert found["prints"].places == ["package/networks/gates.py:9"]


def test_the_exit_status_says_whether_a_limit_is_broken(root, capsys):
    assert structure.main(root) == 1
    assert "OVER THE LIMIT" in capsys.readouterr().out
    for name in ("networks/gates.py", "command.py", "networks/__init__.py", "__init__.py"):
        (root / "package" / name).unlink()
    (root / "package/training/gates.py").write_text(
        '"""Documented."""\n\n\ndef gate() -> None:\n    """Do."""\n'
    )
    assert structure.main(root) == 0


def test_an_import_of_a_higher_layer_is_found_wherever_it_stands(root):
    against = "from package.training import gates\nfrom package import nifti\n"
    texts = {
        "package/nifti.py": "import package.networks.gates\n",
        "package/networks/lazy.py": f"def load():\n    {against.partition(chr(10))[0]}\n",
        "package/training/allowed.py": f"{against}from package.networks.gates import decide\n",
        "package/cli/main.py": against,
        "package/training/__init__.py": "",
        "package/new/__init__.py": "",
        "package/__init__.py": against,
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    assert structure.imports_against_layers(structure.read_sources(root)) == [
        "package/new/__init__.py not in LAYERS",
        "package/cli/main.py:1 package.training.gates",
        "package/networks/lazy.py:2 package.training.gates",
        "package/nifti.py:1 package.networks.gates",
    ]


def test_no_layer_reaches_itself():
    def reached(layer, seen=()):
        assert layer not in seen
        for lower in structure.LAYERS[layer]:
            reached(lower, (*seen, layer))

    for layer in structure.LAYERS:
        reached(layer)
