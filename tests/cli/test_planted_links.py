"""No command writes or deletes outside the folder that it is given, whatever links it finds there."""

import random
from pathlib import Path

import pytest

from sgnet_nnunet.cli.main import main

PRECIOUS = b"precious"
QUICK = {
    "compare": ["--no-gates", "--time-cases", "0"],
    "evaluate": ["-np", "1"],
    "export": [],
    "gates": [],
    "predict": ["--disable_tta", "--save_probabilities"],
    "tune": ["-f", "0"],
}


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code or 0


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def plant(folder: Path, outside: Path, rng: random.Random) -> int:
    """Replace about half of the files by links to outside, and put links where half-written files go."""
    outside.mkdir()
    written = files_in(folder)
    entries = [*written, *(path for path in folder.rglob("*") if path.is_dir())]
    for number, path in enumerate(entries):
        victim = outside / f"{number}"
        victim.write_bytes(PRECIOUS)
        hidden = path.with_name(f".partial-{path.name}")
        hidden.symlink_to(victim if path in written else outside)
        if path in written and rng.random() < 0.5:
            path.unlink()
            path.symlink_to(victim)
    return len(entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_links_to_outside_are_not_followed(command_lines, tmp_path, name):
    output = tmp_path / "output"
    output.mkdir()
    arguments = [*command_lines(output)[name], *QUICK[name]]
    assert run(arguments) == 0
    assert files_in(output)
    planted = plant(output, tmp_path / "outside", random.Random(name))
    assert run(arguments) in {0, 1, 2}
    contents = {path.name: path.read_bytes() for path in files_in(tmp_path / "outside")}
    assert contents == {str(number): PRECIOUS for number in range(planted)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_conversion_does_not_follow_links_either(command_lines, tmp_path, monkeypatch, seed):
    raw = tmp_path / "raw"
    monkeypatch.setenv("nnUNet_raw", str(raw))
    arguments = ["convert", command_lines(raw)["convert"][1], "-np", "1"]
    assert run(arguments) == 0
    planted = plant(raw, tmp_path / "outside", random.Random(seed))
    assert run(arguments) in {0, 1, 2}
    contents = {path.name: path.read_bytes() for path in files_in(tmp_path / "outside")}
    assert contents == {str(number): PRECIOUS for number in range(planted)}
