"""nnU-Net's own commands, run as a user types them."""

import os
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sgnet_nnunet.errors import SGNetError

LAST_LINES = 15


def run_command(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Run a command of this Python environment and keep its output.

    Args:
        arguments: The command's name and its arguments.
        environment: Variables set on top of the process's own.
        log: File for standard output and error.
        on_line: Called with each line as it comes.

    Raises:
        SGNetError: If the command ends with a status other than 0; names the log and quotes its end.
    """
    command = [str(Path(sysconfig.get_path("scripts"), arguments[0])), *arguments[1:]]
    lines = []
    with (
        log.open("w", encoding="utf-8", buffering=1) as file,
        subprocess.Popen(  # noqa: S603
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment),
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            lines.append(line)
            if on_line:
                on_line(line)
    if process.returncode:
        tail = "".join(lines[-LAST_LINES:])
        msg = f"`{' '.join(arguments)}` ended with status {process.returncode}; see {log}\n{tail}"
        raise SGNetError(msg)
