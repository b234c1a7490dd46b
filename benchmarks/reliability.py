"""What nnUNetv2_predict and sgnet predict do with the same malformed images, models and arguments.

    python benchmarks/reliability.py benchmarks/results

The inputs are those of the tests, for a network of nnU-Net's own with random weights. Each command is
called in a forked process with a time limit and `ROOM` bytes of memory, and without workers: `-npp 0 -nps 0`.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from timing import markdown

from sgnet_nnunet.errors import SGNetError

Malformed: TypeAlias = Any
"""An input of `tests/malformed.py`."""

TESTS = Path(__file__).parents[1] / "tests"
PATIENCE, ROOM, SPARE = 60, 4 << 30, 1 << 30
OUTCOMES = {
    "named": "message that names the file or value",
    "unnamed": "message that names neither",
    "traceback": "traceback whose last line names it",
    "bare": "traceback whose last line does not",
    "nothing": "no mask, and status 0",
    "warned": "a mask, with a warning that names it",
    "same": "mask as of the sound input, without a word",
    "silent": "another mask, without a word",
    "memory": "over 1 GB of memory, or out of memory",
    "killed": "ended by a signal",
    "hang": f"no end within {PATIENCE} s",
    "payload": "code of the model was run",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: the status is negative for a signal and None for a hang; `grown` is in bytes."""

    status: int | None
    grown: int
    text: str

    @property
    def message(self) -> str:
        """What follows the last traceback, or the last line."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        last = [index for index, line in enumerate(lines) if line.startswith("  ")]
        return "\n".join(lines[last[-1] + 1 :] if "Traceback" in self.text and last else lines[-1:])


def run(command: Callable[[], object], arguments: str, log: Path) -> Ended:
    """Call a command in a forked process, in the current folder, with `sys.argv`; output goes to `log`."""
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    process = os.fork()
    if not process:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (before + ROOM, before + ROOM))
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = arguments.split()
        try:
            command()
            status: int | str | None = 0
        except SystemExit as done:
            status = done.code
        except BaseException:
            traceback.print_exc()
            status = 1
        for text in (sys.stdout, sys.stderr):
            text.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))
    deadline, ended, use = time.monotonic() + PATIENCE, 0, None
    while not ended:
        ended, code, use = os.wait4(process, os.WNOHANG if time.monotonic() < deadline else 0)
        if not ended and time.monotonic() > deadline - 0.1:
            os.killpg(process, signal.SIGKILL)
            os.wait4(process, 0)
            return Ended(None, 0, log.read_text(errors="replace"))
        time.sleep(0.01)
    grown = (use.ru_maxrss - resident) * 1024 if use else 0
    return Ended(os.waitstatus_to_exitcode(code), grown, log.read_text(errors="replace"))


def outcome(ended: Ended, culprits: Sequence[str], work: Path, sound: bytes | None) -> str:
    """Return the key of `OUTCOMES` that fits; `sound` is the mask of the sound input, see `mask_of`."""
    named = any(each in ended.message for each in culprits)
    failed = "Traceback" in ended.text
    shortage = ("MemoryError", "Unable to allocate", "bad_alloc", "llocate memory", "not enough memory")
    mask = mask_of(work)
    for key, holds in {
        "payload": (work / "marker").exists(),
        "hang": ended.status is None,
        "memory": ended.grown > SPARE or (failed and any(each in ended.text for each in shortage)),
        "killed": (ended.status or 0) < 0,
        "traceback": failed and named,
        "bare": failed,
        "named": ended.status and (named or any(each in ended.text for each in culprits)),
        "unnamed": ended.status,
        "nothing": mask is None,
        "warned": any(each in ended.text for each in culprits),
        "same": mask == sound,
    }.items():
        if holds:
            return key
    return "silent"


def mask_of(work: Path) -> bytes | None:
    """Return the grid and the voxels of the mask that a command wrote, if it did."""
    path = next(work.glob("masks/*.nii.gz"), None)
    if path is None:
        return None
    image = nib.load(path)
    return (
        json.dumps([image.shape, image.affine.round(3).tolist()]).encode()
        + np.asarray(image.dataobj).tobytes()
    )


def main(
    output: Annotated[Path, typer.Argument(help="Folder for reliability.json and reliability.md.")],
    every: Annotated[int, typer.Option(min=1, help="Try one of so many inputs.")] = 1,
    only: Annotated[str, typer.Option(help="Try those whose kind and name contain this.")] = "",
) -> None:
    """Try all inputs and write the outcomes."""
    output, root = output.absolute(), Path(tempfile.mkdtemp(prefix="sgnet-reliability-"))
    work, log = root / "work", root / "log"
    folders = {name: str(work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    os.environ |= folders | {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:0] = [str(TESTS / "inference"), str(TESTS)]
    malformed = import_module("malformed")
    commands = {
        "nnUNetv2_predict": import_module("nnunetv2.inference.predict_from_raw_data").predict_entry_point,
        "sgnet predict": import_module("sgnet_nnunet.cli.main").main,
    }
    for name in ("cli.app", "inference.trained_model"):
        import_module(f"sgnet_nnunet.{name}")

    def attempt(command: str, each: Malformed) -> Ended:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(root / each.reader, work)
        log.unlink(missing_ok=True)
        os.chdir(work)
        each.change(work)
        return run(commands[command], f"{command} {malformed.SETTINGS} {each.arguments}", log)

    rows, sound = [], {}
    for reader in malformed.READERS.values():
        malformed.write_sound(root / reader, reader)
        for command in commands:
            ended = attempt(command, malformed.Malformed("", "", lambda _: None, (), reader))
            sound[command, reader] = mask_of(work)
            if ended.status or sound[command, reader] is None:
                raise SGNetError(f"{command}: the sound input of {reader} failed\n{ended.text}")
    inputs = [*malformed.malformed_images(), *malformed.malformed_models(), *malformed.malformed_arguments()]
    for each in [each for each in inputs if only in f"{each.kind} {each.name}"][::every]:
        for command in commands:
            ended = attempt(command, each)
            key = outcome(ended, each.culprits, work, sound[command, each.reader])
            rows.append({"kind": each.kind, "input": each.name, "command": command, "outcome": key,
                         "status": ended.status, "message": ended.message[:300]})  # fmt: skip
            typer.echo(f"{key:9} {command:17} {each.kind} {each.name[:70]}")
    os.chdir(output)
    shutil.rmtree(root)
    (output / "reliability.json").write_text(json.dumps(rows, indent=1).replace(str(work), "."))
    (output / "reliability.md").write_text(report(pd.DataFrame(rows)), encoding="utf-8")


def report(rows: pd.DataFrame) -> str:
    """Return the counts of each outcome, by command and kind, as a table in Markdown."""
    counts = pd.crosstab(rows["outcome"], [rows["command"], rows["kind"]])
    counts = counts.reindex([key for key in OUTCOMES if key in counts.index])
    counts.columns = [": ".join(each) + "s" for each in counts.columns]
    total = counts.sum().to_frame("all inputs").T
    counts.index = [OUTCOMES[key] for key in counts.index]
    return f"""# Malformed inputs: nnUNetv2_predict and sgnet predict

{rows["input"].nunique()} inputs, each given to both commands by
`python benchmarks/reliability.py benchmarks/results`; each is in reliability.json.

{markdown(pd.concat([counts, total]).reset_index(names="outcome"))}
"""


if __name__ == "__main__":
    typer.run(main)
