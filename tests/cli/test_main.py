import errno
import io
import subprocess
import sys

import pytest

from sgnet_nnunet import __version__
from sgnet_nnunet.cli import main as module
from sgnet_nnunet.cli.console import out
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.plugin import link
from sgnet_nnunet.plugin.doctor import Finding, Group
from sgnet_nnunet.plugin.shims import SHIMS


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        module.main(list(arguments))
    return ended.value.code or 0


def test_version_is_printed(capsys):
    assert run("--version") == 0
    assert __version__ in capsys.readouterr().out


def test_error_is_one_line_on_standard_error_and_status_2(capsys, monkeypatch):
    def fail():
        raise SGNetError("/data/x.nii.gz: is [truncated]; download it again")

    monkeypatch.setattr(link, "nnunet_package", fail)
    assert run("link") == 2
    captured = capsys.readouterr()
    assert captured.err == "sgnet: /data/x.nii.gz: is [truncated]; download it again\n"
    assert captured.out == ""


@pytest.fixture
def fail(monkeypatch, tmp_path):
    """Return a function that runs a command in which an error is raised."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run_failing(error, *arguments):
        def raise_it():
            raise error

        monkeypatch.setattr(link, "nnunet_package", raise_it)
        return run("link", *arguments)

    return run_failing


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("not [a]\nnumber"), "ValueError: not [a] number"),
        (EOFError("ends"), "ValueError: a file ends too early (ends)"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: PermissionError: Permission denied"),
        (MemoryError(), "MemoryError: close other programs, or use fewer workers"),
    ],
)
def test_unexpected_error_is_one_line_and_the_traceback_in_a_private_log(fail, capsys, tmp_path, error, line):
    assert fail(error) == 1
    (log,) = tmp_path.glob("sgnet-*.log")
    assert capsys.readouterr().err == f"sgnet: {line}; the traceback is in {log}\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert log.read_text().startswith("sgnet link\n\nTraceback")
    assert "raise_it" in log.read_text()


def test_debug_prints_the_traceback_instead(fail, capsys, tmp_path):
    assert fail(KeyError("a"), "--debug") == 1
    assert capsys.readouterr().err.startswith("Traceback")
    assert not list(tmp_path.glob("sgnet-*.log"))


def test_full_disk_is_named_with_the_file(fail, capsys, tmp_path):
    assert fail(OSError(errno.ENOSPC, "No space left on device", "/a", None, f"{tmp_path}/b")) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"sgnet: {tmp_path}/b: cannot be written, the disk of /")
    assert "is full" in shown


class FullFile(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_output_that_cannot_be_printed_is_named_and_no_folder_blamed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sgnet_nnunet.phantom.population.write_phantoms", lambda *_, **__: None)
    monkeypatch.setattr(out, "_file", FullFile())
    assert run("phantom", str(tmp_path), "-n", "1") == 1
    assert "sgnet: standard output: cannot be written" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys):
    run()
    assert "convert" in capsys.readouterr().out


@pytest.mark.parametrize(("remedy", "status"), [(None, 0), ("sgnet link", 1)])
def test_doctor_ends_with_status_1_if_anything_is_wrong(monkeypatch, capsys, remedy, status):
    findings = (Finding("SGNetPlanner", "looked at", remedy), Finding("SGNetTrainer", "found"))
    monkeypatch.setattr(
        "sgnet_nnunet.plugin.doctor.examine", lambda: [Group("classes", "all found", findings)]
    )
    assert run("doctor") == status
    shown = capsys.readouterr().out
    assert ("SGNetPlanner: looked at" if remedy else "all found") in shown
    assert (remedy or "") in shown
    assert "SGNetTrainer" not in shown


def test_link_and_unlink_say_what_they_did(package, monkeypatch, capsys):
    monkeypatch.setattr(link, "nnunet_package", lambda: package)
    monkeypatch.setattr(link, "shims_belong_to_wheel", lambda: False)
    shown = []
    for command in ("link", "link", "unlink", "unlink"):
        assert run(command) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0].count("linked") == len(SHIMS)
    assert shown[1] == "nnU-Net finds every class already.\n"
    assert shown[2].count("unlinked") == len(SHIMS)
    assert shown[3] == "Nothing was linked.\n"


def test_unlink_leaves_a_wheels_shims_to_pip(monkeypatch, capsys):
    monkeypatch.setattr(link, "shims_belong_to_wheel", lambda: True)
    assert run("unlink") == 0
    assert "pip uninstall" in capsys.readouterr().out


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "nnunetv2"
    folder.mkdir()
    return folder


def test_signals_are_handled_before_other_modules_are_imported():
    code = (
        "import signal, sys; before = set(sys.modules); import sgnet_nnunet.cli.main;"
        "print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["sgnet_nnunet", "sgnet_nnunet.cli", "sgnet_nnunet.cli.main"]
