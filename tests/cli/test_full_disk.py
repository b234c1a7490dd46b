"""A full disk ends every command with one line that names the disk and the file, and nothing is half-written.

The test runs itself once more where it may mount a disk in memory. `SGNET_FULL_DISKS` is the number of rows:

    SGNET_FULL_DISKS=14 pytest -s tests/cli/test_full_disk.py
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SGNET = [sys.executable, "-c", "from sgnet_nnunet.cli.main import main; main()"]
DISK_MB = 300
ROWS = [
    *[
        ("convert", 0.5),
        ("evaluate", 0.6),
        ("predict", 0.5),
        ("export", 0.5),
        ("tune", 0.0),
        ("phantom", 0.5),
    ],
    *[("convert", 0.0), ("gates", 0.5), ("compare", 0.5), ("demo", 0.0), ("predict", 0.0), ("export", 0.0)],
    *[("evaluate", 0.0), ("demo", 0.5)],
]
"""Commands, and how much of what they write finds room."""


def main() -> None:
    """In a namespace of its own: mount a disk, and print what goes wrong on it."""
    work = json.loads(sys.argv[1])
    disk = Path(work["disk"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", disk], check=True)
    sizes: dict[str, int] = {}
    for name, share in work["rows"]:
        if share and name not in sizes:
            _run(name, work)
            sizes[name] = sum(path.stat().st_size for path in _files(disk))
        _empty(disk)
        room = int(share * sizes.get(name, 0))
        with (disk / "filler").open("wb") as file:
            usage = shutil.disk_usage(disk)
            os.posix_fallocate(file.fileno(), 0, usage.free - room // 4096 * 4096)
        ended = _run(name, work)
        lines = [line for line in ended.stderr.splitlines() if line.startswith("sgnet: ")]
        faults = [
            f"status {ended.returncode}" * (ended.returncode == 0),
            "traceback" * ("Traceback" in ended.stderr),
            f"{len(lines)} lines" * (len(lines) != 1),
            "no disk named" * (f"disk of {disk} is full" not in ended.stderr),
            *(f"left {path.name}" for path in disk.rglob("*") if path.name.startswith(".partial-")),
        ]
        sys.stdout.write(f"{name} {share}: {', '.join(filter(None, faults)) or 'handled'}: {lines[-1:]}\n")
        if any(faults):
            sys.stdout.write(ended.stderr[-1500:] + "\n")
        sys.stdout.flush()
        _empty(disk)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _run(name: str, work: dict) -> subprocess.CompletedProcess[str]:
    environment = os.environ | work["environment"] | {"OMP_NUM_THREADS": "1"}
    if name == "convert":
        environment["nnUNet_raw"] = work["disk"]
    command = [*SGNET, *work["lines"][name]]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, cwd="/tmp")


@pytest.mark.slow
def test_full_disk_is_one_line_and_nothing_is_half_written(command_lines, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--map-root-user", "--mount"]
    mount = [*namespace, "mount", "-t", "tmpfs", "tmpfs", disk]
    if not shutil.which("unshare") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    lines = command_lines(disk)
    lines["predict"].remove("--tta")
    lines["demo"] += ["--epochs", "1", "--iters", "1"]
    lines["convert"][lines["convert"].index("rigid")] = "none"
    lines["phantom"][lines["phantom"].index("40")] = "2"
    work = {
        "disk": str(disk),
        "lines": lines,
        "rows": ROWS[: int(os.environ.get("SGNET_FULL_DISKS", "5"))],
        "environment": {name: value for name, value in os.environ.items() if name.startswith("nnUNet_")},
    }
    shown = ""
    with subprocess.Popen(
        [*namespace, sys.executable, __file__, json.dumps(work)], stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            shown += line
    assert shown.count(": handled: ") == len(work["rows"])


if __name__ == "__main__":
    main()
