"""No file makes a reader wait, or take more memory than its header announces and the machine has."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet import files
from sgnet_nnunet.cli import main as module
from sgnet_nnunet.dataset.splits import patients_of
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import read_probabilities
from sgnet_nnunet.evaluation.results import read_labels_of
from sgnet_nnunet.files import checksum_of, read_json
from sgnet_nnunet.nifti import have_orientation, read_channel, read_image, read_labels, read_mask
from sgnet_nnunet.nnunet import validation_cases
from sgnet_nnunet.phantom.config import MOST_PATIENTS
from sgnet_nnunet.phantom.population import write_phantoms

IMAGE_READERS = {
    "image": read_image,
    "mask": read_mask,
    "labels": read_labels,
    "nibabel": partial(read_channel, reader="NibabelIOWithReorient"),
    "ITK": partial(read_channel, reader="SimpleITKIO"),
}
READERS = {
    **IMAGE_READERS,
    "orientation": lambda path: have_orientation([path]),
    "JSON": read_json,
    "dataset.json": read_labels_of,
    "splits": lambda path: validation_cases(path, ["0"], ["a"]),
    "patients": lambda path: patients_of(["a"], table=path, conversion_report=None),
    "probabilities": partial(read_probabilities, heads=2),
}


@pytest.fixture(autouse=True)
def patience():
    """End a test that waits for a file."""

    def give_up(*_):
        raise TimeoutError("waited for 300 seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)
    yield
    signal.alarm(0)


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    # The address of a socket may have 107 characters.
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(here)


STRANGE = {
    "pipe": make_pipe,
    "socket": make_socket,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "random": lambda path: path.symlink_to("/dev/urandom"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path),
    "dangling": lambda path: path.symlink_to(path.with_name("absent")),
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(tmp_path, kind, reader):
    path = tmp_path / "a.nii.gz"
    STRANGE[kind](path)
    with pytest.raises(InputFileError) as caught:
        READERS[reader](path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "endless"])
def test_checksum_is_of_regular_files(tmp_path, kind):
    STRANGE[kind](tmp_path / "a")
    with pytest.raises(OSError, match="not a regular file"):
        checksum_of(tmp_path / "a")


def header_of(shape: tuple[int, ...], dtype: str = "u1") -> bytes:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_sform(np.eye(4), 1)
    header.set_qform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4)


def zeros_of(gigabytes: float) -> bytes:
    """Return gzip members that hold so many bytes of zero; 1 GB takes 1 MB."""
    return gzip.compress(bytes(1 << 26)) * round(gigabytes * 1e9 / (1 << 26))


BOMBS = {
    "after a small image": (header_of((4, 5, 6)), zeros_of(3)),
    "as announced": (header_of((1500, 1500, 1400)), zeros_of(3.2)),
    "in a vast image": (header_of((30000, 30000, 30000)), gzip.compress(bytes(100))),
    "without a header": (b"", zeros_of(3)),
    "offset": (header_of((4, 5, 6))[:108] + np.float32(3e9).tobytes() + bytes(240), zeros_of(3.2)),
}

CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
from test_bounds import IMAGE_READERS
from pathlib import Path
from sgnet_nnunet.errors import InputFileError
IMAGE_READERS["ITK"](Path(sys.argv[3]))  # ITK is loaded
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for path in Path(sys.argv[2]).iterdir():
    for name, read in IMAGE_READERS.items():
        start = time.process_time()
        try:
            read(path)
            message = ""
        except InputFileError as error:
            message = str(error)
        found[f"{path.name} as {name}"] = (message, time.process_time() - start)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([found, grown * 1024]))
"""


@pytest.mark.slow
def test_bombs_are_refused_at_once_and_without_the_memory_they_ask_for(tmp_path):
    small = tmp_path / "small.nii.gz"
    small.write_bytes(gzip.compress(header_of((4, 5, 6)) + bytes(range(120))))
    (tmp_path / "bombs").mkdir()
    for name, (header, content) in BOMBS.items():
        (tmp_path / "bombs" / f"{name}.nii.gz").write_bytes(gzip.compress(header) + content)
    write_itk_bombs(tmp_path / "bombs")
    arguments = [str(Path(__file__).parent), str(tmp_path / "bombs"), str(small)]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found, grown = json.loads(ended.stdout)
    assert grown < 200e6
    assert len(found) == (len(BOMBS) + 3) * len(IMAGE_READERS)
    for what, (message, seconds) in found.items():
        assert what.partition(" as ")[0] in message, what
        assert seconds < 2, what


def write_itk_bombs(folder: Path) -> None:
    """Write what ITK would read: a header of 30000 cubed, a stream that goes on, and voxels elsewhere."""
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "CompressedData = True"]
    for name, size, place in (
        ("vast", 30000, "LOCAL"),
        ("long", 4, "LOCAL"),
        ("elsewhere", 4, "/dev/zero"),
    ):
        text = [
            *lines,
            f"DimSize = {size} {size} {size}",
            "ElementType = MET_UCHAR",
            f"ElementDataFile = {place}",
        ]
        stream = zlib.compress(bytes(1 << 28), 1) if name == "long" else zlib.compress(bytes(64))
        (folder / f"{name}.mha").write_bytes("\n".join([*text, ""]).encode() + stream)


def test_honest_image_that_memory_has_no_room_for_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((50, 60, 70), np.int16), np.eye(4)), path)
    needed = 352 + 50 * 60 * 70 * (2 + 8)
    monkeypatch.setattr(files, "free_memory", lambda: needed - 1)
    with pytest.raises(
        InputFileError, match=r"needs 0\.0021 GB of memory by its header, 0\.0021 GB are free"
    ):
        read_labels(path)
    monkeypatch.setattr(files, "free_memory", lambda: needed)
    assert read_labels(path).data.shape == (50, 60, 70)


def test_free_memory_is_within_the_limit_of_the_process():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from sgnet_nnunet.files import free_memory; print(free_memory())"
    )
    free = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0 < free < 1 << 30
    assert files.free_memory() > 0


@pytest.mark.parametrize("rest", [0, 100, 1 << 20])
def test_padding_after_the_voxels_is_allowed(tmp_path, rest):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header_of((4, 5, 6)) + bytes(range(120)) + bytes(rest)))
    assert read_image(path).data.max() == 119


@pytest.mark.parametrize("name", ["JSON", "dataset.json", "splits", "patients"])
def test_texts_have_a_largest_size(tmp_path, name, monkeypatch):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, on no disk
    with pytest.raises(InputFileError, match="larger than 67 MB"):
        READERS[name](path)


@pytest.mark.parametrize("name", ["JSON", "dataset.json", "splits"])
def test_nesting_without_end_is_no_json(tmp_path, name):
    (tmp_path / "a.json").write_text('{"labels":' * 100_000)
    with pytest.raises(InputFileError, match=r"a\.json"):
        READERS[name](tmp_path / "a.json")


def test_probabilities_that_memory_has_no_room_for_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, probabilities=np.zeros((2, 50, 50, 50), np.float16))
    assert read_probabilities(path, heads=2).shape == (2, 50, 50, 50)
    monkeypatch.setattr(files, "free_memory", lambda: 400_000)
    with pytest.raises(InputFileError, match=r"needs 0\.0005 GB of memory"):
        read_probabilities(path, heads=2)


def test_probabilities_of_an_announced_size_that_no_file_has_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("probabilities.npy", "w") as file:
        description = {"descr": "<f2", "fortran_order": False, "shape": (2, 10**6, 10**6, 10**6)}
        np.lib.format.write_array_header_1_0(file, description)
    with pytest.raises(InputFileError, match=r"a\.npz"):
        read_probabilities(tmp_path / "a.npz", heads=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("phantom", "{}", "-n", str(10**12)),
        ("phantom", "{}", "-n", "9" * 5000),
        ("phantom", "{}", "-n", str(MOST_PATIENTS + 1)),
        ("phantom", "{}", "-np", str(10**9)),
        ("convert", "{}", "-np", str(10**9)),
        ("evaluate", "{}", "{}", "-o", "{}", "-np", str(10**9)),
        ("compare", "--models", "A", "-o", "{}", "-np", str(10**9)),
        ("tune", "-d", "1", "-np", str(10**9)),
        ("predict", "-i", "{}", "-o", "{}", "-m", "{}", "-npp", str(10**9)),
        ("predict", "-i", "{}", "-o", "{}", "-m", "{}", "-nps", str(10**9)),
        ("demo", "{}", "--epochs", str(10**12)),
        ("demo", "{}", "--iters", str(10**12)),
    ],
)
def test_counts_have_an_upper_bound(tmp_path, capsys, arguments):
    start = time.process_time()
    with pytest.raises(SystemExit) as ended:
        module.main([each.format(tmp_path / "new") for each in arguments])
    assert ended.value.code == 2
    assert time.process_time() - start < 10
    assert "Invalid value for" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_number_of_phantoms_is_bounded_in_the_library_too(tmp_path):
    with pytest.raises(SGNetError, match=f"patients is {10**12}; give 1 to {MOST_PATIENTS}"):
        write_phantoms(tmp_path / "new", patients=10**12, seed=0)


def test_strange_files_in_a_collection_and_among_masks_do_not_stop_a_command(tmp_path, capsys):
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
        make_pipe(tmp_path / folder / "a.nii.gz")
    with pytest.raises(SystemExit) as ended:
        module.main(
            [
                "evaluate",
                str(tmp_path / "predictions"),
                str(tmp_path / "references"),
                "-o",
                str(tmp_path / "o"),
            ]
        )
    assert ended.value.code == 2
    assert "references" in capsys.readouterr().err
