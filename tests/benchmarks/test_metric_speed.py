"""The metrics' benchmark runs and prints a row for each tool."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sgnet_nnunet.nifti import Volume, write_volume

pytest.importorskip("panoptica", reason="panoptica needs NumPy below 2.3, which Python 3.14 has not")


@pytest.mark.parametrize("with_predictions", [False, True])
def test_every_tool_is_timed_on_the_same_masks(with_predictions, tmp_path):
    from metric_speed import TIMED, main  # noqa: PLC0415 since it needs panoptica

    mask = np.zeros((24, 24, 24), dtype=np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    write_volume(tmp_path / "case.nii.gz", Volume(mask, np.diag([1.0, 1.0, 2.0, 1.0])))
    app = typer.Typer()
    app.command()(main)
    folders = [str(tmp_path)] * (2 if with_predictions else 1)
    result = CliRunner().invoke(app, [*folders, "--rounds", "1"], catch_exceptions=False)
    assert "1 cases of 24 x 24 x 24 voxels" in result.output
    assert all(name in result.output for name in TIMED)
