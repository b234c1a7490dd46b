from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return an empty stand-in for nnU-Net's package folder."""
    folder = tmp_path / "nnunetv2"
    folder.mkdir()
    return folder
