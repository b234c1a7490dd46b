"""A command that is killed at any moment and run again ends with the files of one in one go.

`SGNET_KILLS` is the number of kills. For the list, together with full disks:

    SGNET_KILLS=100 SGNET_FULL_DISKS=14 pytest -s tests/cli/test_killed.py tests/cli/test_full_disk.py
"""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from whole_runs import contents, differences, forked_runs, shortened

KILLS = int(os.environ.get("SGNET_KILLS", "9"))
COMMANDS = ("convert", "phantom", "predict", "segment", "export", "gates", "evaluate", "compare", "tune")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL"),
]


def is_hidden(name):
    return any(part.startswith(".") for part in Path(name).parts)


def test_killed_and_repeated_command_ends_with_the_same_files(command_lines, tmp_path):
    draw = random.Random(KILLS)
    output = tmp_path / "output"
    output.mkdir()
    lines = shortened(command_lines(output), workers=1)
    expected, durations, killed = {}, {}, 0
    with forked_runs() as run:
        while killed < KILLS:
            name = COMMANDS[killed % len(COMMANDS)]
            environment = {"nnUNet_raw": str(output)} if name == "convert" else {}
            if name not in expected:
                status, durations[name] = run(lines[name], environment)
                assert status == 0, name
                expected[name] = contents(output)
                empty(output)
            seconds = draw.uniform(0, durations[name])
            status, _ = run(lines[name], environment, seconds=seconds)
            if status:  # else it was over before
                assert status == -signal.SIGKILL, name
                killed += 1
                left = {file: each for file, each in contents(output).items() if not is_hidden(file)}
                assert [file for file in left if left[file] != expected[name].get(file)] == [], name
                assert run(lines[name], environment)[0] == 0, name
                sys.stdout.write(f"{killed} {name} killed after {seconds:.2f} s, {len(left)} files\n")
            assert differences(contents(output), expected[name]) == [], name
            empty(output)
    sys.stdout.write(f"{killed} of {KILLS} kills ended with the same files\n")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()
