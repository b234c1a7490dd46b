"""Commands run as a user types them, in the environment the tests run in."""

import os
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from sgnet_nnunet.plugin.link import shims_belong_to_wheel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def installed_as_a_user_does() -> None:
    """Fail where the package is not installed from a wheel: these tests are about that."""
    assert shims_belong_to_wheel(), (
        "the end-to-end tests need `pip install .` (not editable); run `make test`"
    )


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a console script in a folder of nnU-Net's three paths."""
    paths = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for path in paths.values():
        path.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SGNET_", "nnUNet_"))
    }
    environment |= {name: str(path) for name, path in paths.items()}
    environment |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}

    def run(
        name: str, *arguments: str, status: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        script = Path(sysconfig.get_path("scripts"), name)
        result = subprocess.run(
            [script, *arguments],
            cwd=tmp_path,
            env=environment | variables,
            check=False,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == status, result.stdout[-3000:] + result.stderr[-3000:]
        return result

    return run
