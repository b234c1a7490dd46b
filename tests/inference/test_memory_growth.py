"""The memory of a process does not grow with the number of cases.

`SGNET_CASES` is how many cases each command works on in one process. For the list of 1,000:

    SGNET_CASES=1000 pytest -s tests/inference/test_memory_growth.py
"""

import json
import os
import statistics
import subprocess
import sys

import numpy as np
import pytest

from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.nifti import Volume, write_volume

CASES = int(os.environ.get("SGNET_CASES", "60"))
FIRST = min(50, CASES // 2)
"""Cases after which the memory is compared."""

MOST = 0.02
NOTED = 10

CHILD = """
import json, sys
from pathlib import Path
import psutil
from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.evaluation.measurement import measure_results
from sgnet_nnunet.evaluation.results import results_of_folders
from sgnet_nnunet.inference.predictor import PredictionOptions, predict

resident, process = [], psutil.Process()
note = lambda *_: resident.append(process.memory_info().rss)
command, *folders = sys.argv[1], *map(Path, sys.argv[2:])
if command == "predict":
    images, output, model = folders
    options = PredictionOptions(device="cpu")
    predict(images, output, model_folders=[model], options=options, on_done=note)
elif command == "evaluate":
    measure_results(results_of_folders(*folders), on_done=note)
else:
    convert(*folders, register="rigid", workers=1, on_done=note)
print(json.dumps(resident))
"""

pytestmark = pytest.mark.slow


def resident_bytes(command, *folders):
    """Return the memory after each case, in a process of its own."""
    arguments = [sys.executable, "-c", CHILD, command, *map(str, folders)]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def check_flat(command, resident):
    assert len(resident) == CASES
    before, after = (statistics.median(resident[end - NOTED : end]) for end in (FIRST, CASES))
    middle = statistics.median(resident[CASES // 2 - NOTED : CASES // 2])
    megabytes = " ".join(f"{each / 1e6:.0f}" for each in (before, middle, after))
    figures = f"{megabytes} MB after {FIRST}, {CASES // 2}, {CASES} cases: {after / before - 1:+.2%}"
    print(f"{command}: {figures}")  # noqa: T201

    assert after < (1 + MOST) * before


def repeat(first, name):
    """Link a file under the name of each further case."""
    for index in range(1, CASES):
        other = name(index)
        other.parent.mkdir(exist_ok=True)
        other.hardlink_to(first)


@pytest.fixture(scope="module")
def many_images(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for channel in range(2):
        first = folder / f"c0000_{channel:04d}.nii.gz"
        first.write_bytes((images / f"a_{channel:04d}.nii.gz").read_bytes())
        repeat(first, lambda index, channel=channel: folder / f"c{index:04d}_{channel:04d}.nii.gz")
    return folder


@pytest.mark.parametrize("kind", ["gated_model", "model", "exported_model"])
def test_predict(request, many_images, tmp_path, kind):
    model = request.getfixturevalue(kind)
    check_flat(f"predict, {kind}", resident_bytes("predict", many_images, tmp_path / "masks", model))


def test_evaluate(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
        mask = (rng.random((24, 22, 14)) > 0.999).astype(np.uint8)  # seven lesions and a large one
        mask[4:12, 5:11, 3:9] = 1
        first = tmp_path / name / "c0000.nii.gz"
        write_volume(first, Volume(mask, np.eye(4)))
        repeat(first, lambda index, first=first: first.with_name(f"c{index:04d}.nii.gz"))
    check_flat("evaluate", resident_bytes("evaluate", tmp_path / "predictions", tmp_path / "references"))


def test_convert(tmp_path):
    rng = np.random.default_rng(0)

    def path_of(index, part):
        return part_path(tmp_path / "collection", f"P{index:04d}", "A", part, ".nii.gz")

    for part in PARTS:
        image = rng.integers(100, 1000, (24, 22, 14)).astype(np.int16)
        if part.endswith("seg"):
            image = np.zeros(image.shape, np.uint8)
            image[8:14, 7:13, 4:9] = 1
        first = path_of(0, part)
        first.parent.mkdir(parents=True, exist_ok=True)
        write_volume(first, Volume(image, np.eye(4)))
        repeat(first, lambda index, part=part: path_of(index, part))
    check_flat("convert", resident_bytes("convert", tmp_path / "collection", tmp_path / "raw"))
