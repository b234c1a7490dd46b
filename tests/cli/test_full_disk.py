"""A full disk ends every command with one line that names the disk and the file, and nothing is half-written.

With room again, the command ends with the same files as where there was room from the start.

The test runs itself once more where it may mount a disk in memory. `SGNET_FULL_DISKS` is the number of rows:

    SGNET_FULL_DISKS=14 pytest -s tests/cli/test_full_disk.py
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from whole_runs import contents, differences, forked_runs, shortened

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
    disk, errors = Path(work["disk"]), Path(work["errors"])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", disk], check=True)
    expected: dict[str, dict[str, bytes]] = {}
    size: dict[str, int] = {}
    with forked_runs() as runs:

        def run(name: str) -> int:
            environment = {"nnUNet_raw": str(disk)} if name == "convert" else {}
            return runs(work["lines"][name], environment, errors=errors)[0]

        for name, share in work["rows"]:
            if name not in expected:
                run(name)
                expected[name] = contents(disk)
                size[name] = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
                empty(disk)
            room = int(share * size[name])
            with (disk / "filler").open("wb") as file:
                usage = shutil.disk_usage(disk)
                os.posix_fallocate(file.fileno(), 0, usage.free - room // 4096 * 4096)
            faults = [*faults_of(run(name), errors.read_text(), disk)]
            shown = errors.read_text()
            (disk / "filler").unlink()
            if status := run(name):
                faults.append(f"status {status} with room again: {errors.read_text()}")
            faults += [f"other {file}" for file in differences(contents(disk), expected[name])]
            sys.stdout.write(f"{name} {share}: {', '.join(faults) or 'handled'}: {shown.splitlines()[-1:]}\n")
            sys.stdout.flush()
            empty(disk)


def faults_of(status: int, shown: str, disk: Path) -> Iterator[str]:
    lines = [line for line in shown.splitlines() if line.startswith("sgnet: ")]
    if status == 0:
        yield "status 0"
    if "Traceback" in shown:
        yield f"traceback {shown[-1500:]}"
    if len(lines) != 1:
        yield f"{len(lines)} lines"
    if f"disk of {disk} is full" not in shown:
        yield "no disk named"
    yield from (f"left {path.name}" for path in disk.rglob("*") if path.name.startswith(".partial-"))


def empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.slow
def test_full_disk_is_one_line_and_nothing_is_half_written(command_lines, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--map-root-user", "--mount"]
    mount = [*namespace, "mount", "-t", "tmpfs", "tmpfs", disk]
    if not shutil.which("unshare") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    work = {
        "disk": str(disk),
        "errors": str(tmp_path / "errors.txt"),
        "lines": shortened(command_lines(disk), workers=2),
        "rows": ROWS[: int(os.environ.get("SGNET_FULL_DISKS", "5"))],
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
