"""The comparison's benchmark makes a tree and times the whole command on it."""

import comparison_speed
import pytest
import typer
from typer.testing import CliRunner


@pytest.fixture
def small(monkeypatch):
    """Make the heads small."""
    monkeypatch.setattr(comparison_speed, "SHAPE", (32, 32, 24))
    monkeypatch.setattr(comparison_speed, "BRAIN_MM", (14.0, 14.0, 10.0))


def test_measuring_and_the_whole_command_are_timed(small, tmp_path):
    app = typer.Typer()
    app.command()(comparison_speed.main)
    options = ["--cases", "5", "--models", "2", "-np", "1", "--folder", str(tmp_path)]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert "5 cases x 2 models of 32 x 32 x 24 voxels, 1 processes" in result.output
    assert "| measuring |" in result.output
    assert "| sgnet compare, all of it |" in result.output
    assert "report.html: " in result.output


def test_tree_is_the_same_each_time_and_its_models_differ(small, tmp_path):
    for root in (tmp_path / "one", tmp_path / "two"):
        comparison_speed.make_tree(root, cases=2, models=["A", "B"])
    files = sorted((tmp_path / "one").rglob("*.nii.gz"))
    assert len(files) == 2 * (2 + 1 + 2)
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    first, second = (
        path for path in files if path.name == "YG_P000_YG_A000.nii.gz" and "fold_0" in str(path)
    )
    assert first.read_bytes() != second.read_bytes()
