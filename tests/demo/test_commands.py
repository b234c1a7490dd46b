import sys
from pathlib import Path

import pytest

from sgnet_nnunet import demo as commands
from sgnet_nnunet.errors import SGNetError


@pytest.fixture(autouse=True)
def scripts_are_python(monkeypatch):
    """Let "python" stand for a console script."""
    monkeypatch.setattr(commands.sysconfig, "get_path", lambda _: str(Path(sys.executable).parent))


def run(code, log, **kwargs):
    commands.run_command([Path(sys.executable).name, "-c", code], environment={"A": "b"}, log=log, **kwargs)


def test_output_goes_to_the_log_and_line_by_line_to_the_listener(tmp_path):
    lines = []
    run("import os; print(os.environ['A']); print('two')", tmp_path / "log", on_line=lines.append)
    assert lines == ["b\n", "two\n"]
    assert (tmp_path / "log").read_text() == "b\ntwo\n"


def test_failure_names_the_log_and_quotes_its_end(tmp_path):
    with pytest.raises(SGNetError, match=rf"status 3; see {tmp_path}/log\noh no"):
        run("import sys; print('oh no'); sys.exit(3)", tmp_path / "log")
