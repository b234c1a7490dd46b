"""Malformed images, models and arguments, about 340, for `nnUNetv2_predict` and `sgnet predict` alike.

`benchmarks/reliability.py` gives them to both, `test_malformed.py` to ours.
"""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import conftest
import nibabel as nib
import numpy as np
import test_bounds as bounds
import test_doors as doors
import test_headers as headers
import test_trust as trust
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

MODEL = "nnUNet_results/Dataset501_Tiny/nnUNetTrainer__nnUNetPlans__3d_fullres"
CHECKPOINT = f"{MODEL}/fold_0/checkpoint_final.pth"
SETTINGS = (
    "-i scans -o masks -d 501 -tr nnUNetTrainer -c 3d_fullres -f 0 -device cpu --disable_tta -npp 0 -nps 0"
)
READERS = {"second channel": "SimpleITKIO", "both channels": "NibabelIOWithReorient"}


@dataclass(frozen=True)
class Damage:
    """What is changed in a folder of sound input, and the names that a message may use."""

    kind: str
    name: str
    change: Callable[[Path], object]
    culprits: tuple[str, ...]


@dataclass(frozen=True)
class Malformed(Damage):
    """An input of a prediction, nnU-Net's or ours."""

    reader: str = "SimpleITKIO"
    arguments: str = ""


def sound_image(rng: np.random.Generator):
    """Return a channel as `Content` of the tests: bright lesion, noise, turned grid."""
    lesion = np.zeros((24, 22, 20), bool)
    lesion[6:15, 7:14, 5:12] = True
    affine = np.array([[0, -1.0, 0, 3], [0.9, 0, 0, -8], [0, 0, 1.2, 5], [0, 0, 0, 1]])
    header = nib.Nifti1Header()
    header.set_data_shape(lesion.shape)
    header.set_data_dtype("i2")
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header["vox_offset"], header["xyzt_units"], header["scl_slope"], header["scl_inter"] = 352, 2, 1, 0
    return headers.Content(header, (np.where(lesion, 90, 20) + rng.integers(0, 9, lesion.shape)).astype("i2"))


def write_sound(folder: Path, reader: str) -> None:
    """Write two channels and a model with random weights, whose masks are about half full."""
    for channel in range(2):
        sound_image(np.random.default_rng(channel)).write(folder / f"scans/a_000{channel}.nii.gz")
    network = {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_op": "torch.nn.Conv3d",
        "norm_op": "torch.nn.InstanceNorm3d",
        "norm_op_kwargs": {"affine": True},
        "nonlin": "torch.nn.LeakyReLU",
    }
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": network,
        "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
    }
    change = {
        "patch_size": [16, 16, 16],
        "architecture": architecture,
        "normalization_schemes": ["ZScoreNormalization"] * 2,  # nnU-Net's own
    }
    conftest.write_plan(folder / MODEL, top={"image_reader_writer": reader}, configuration=change)
    plans = PlansManager(str(folder / MODEL / "plans.json"))
    torch.manual_seed(0)
    built = nnUNetTrainer.build_network_architecture(
        plans, plans.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    )
    weights = {
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": built.state_dict(),
    }
    (folder / CHECKPOINT).parent.mkdir()
    torch.save(weights, folder / CHECKPOINT)


def content_of(path: Path) -> headers.Content:
    """Return what a file `NAME.nii.gz` consists of, as nibabel or `Content` wrote it: no extensions.

    Its qform is that of its sform, for damages of either.
    """
    raw = gzip.decompress(path.read_bytes())
    header = nib.Nifti1Header(raw[:348], check=False)
    voxels = np.frombuffer(raw, header.get_data_dtype(), offset=352).reshape(
        header.get_data_shape(), order="F"
    )
    if not header["qform_code"]:
        header.set_qform(header.get_sform(), 1)
    return headers.Content(header, voxels.copy())


def damages_of_images() -> dict[str, Callable[[Path], object]]:
    """Return what can be wrong with any image or mask, `NAME.nii.gz`."""

    def header(change, path):
        content = content_of(path)
        change(content)
        content.write(path)

    def replaced(content, path):
        path.write_bytes(gzip.compress(content[0]) + content[1])

    changes = {name: partial(header, change) for name, change in headers.INVALID.items()}
    changes |= {name: partial(stream, change) for name, change in headers.DAMAGED.items()}
    changes |= {name: partial(strange, make) for name, make in bounds.STRANGE.items()}
    changes |= {f"bomb {name}": partial(replaced, content) for name, content in bounds.BOMBS.items()}
    changes["bomb after a small image"] = partial(stream, lambda raw: raw + bounds.zeros_of(3))
    return changes | {
        "blank": partial(header, lambda content: content.voxels.fill(0)),
        "absent": Path.unlink,
        "not compressed": partial(stream, gzip.decompress),
        "compressed twice": partial(stream, gzip.compress),
        "PNG": partial(stream, lambda _: b"\x89PNG\r\n\x1a\n" + bytes(400)),
        "text": partial(stream, lambda _: b"no image"),
        "other shape": partial(header, shaped),
        "moved": partial(header, headers.only_sform("srow_x", 60, at=3)),
        "other spacing": partial(header, headers.only_sform("srow_z", 3.6, at=2)),
    }


OF_GRIDS = ("other shape", "moved", "other spacing")
"""Damages that another file of the same grid tells."""


def stream(change: Callable[[bytearray], bytes], path: Path) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def strange(make: Callable[[Path], object], path: Path) -> None:
    path.unlink()
    make(path)


def shaped(content: headers.Content) -> None:
    content.voxels = content.voxels[2:, :, 1:]
    content.header.set_data_shape(content.voxels.shape)


def malformed_images() -> Iterator[Malformed]:
    """Yield every damage of an image: of the second channel, and of both."""
    changes = damages_of_images() | {
        "other ending": lambda path: path.rename(path.with_name(path.name.replace(".nii.gz", ".nii"))),
        "upper case ending": lambda path: path.rename(path.with_name(path.name.replace(".nii", ".NII"))),
        "without number": lambda path: path.rename(path.with_name(f"b{path.name[5]}.nii.gz")),
    }
    other_grids = {name: changes.pop(name) for name in OF_GRIDS} | {
        "third channel": lambda path: shutil.copy(path, path.with_name("a_0002.nii.gz")),
    }
    for where, reader in READERS.items():
        files = [f"a_000{channel}.nii.gz" for channel in range(where == "second channel", 2)]
        for name, change in (changes | other_grids if len(files) == 1 else changes).items():

            def change_all(work, change=change, files=files):
                for file in files:
                    change(work / "scans" / file)

            names = ("a_000", "b1.nii.gz", "scans")
            yield Malformed("image", f"{name}, {where}", change_all, names, reader)


def damages_of_checkpoints() -> dict[str, Callable[[Path], object]]:
    """Return what can be wrong with a checkpoint; the payloads make a folder `marker`."""

    def content(changed, path):
        torch.save(changed(torch.load(path, weights_only=False)), path)

    def weights(change, whole):
        return whole | {
            "network_weights": {key: change(each) for key, each in whole["network_weights"].items()}
        }

    payload = trust.Payload("marker")
    changed = {
        "list": lambda _: [1, 2],
        "tensor": lambda _: torch.zeros(3),
        "nothing": lambda _: {},
        **{f"without {key}": partial(doors.mutated, place=(key,), value=doors.DROP)
           for key in ("trainer_name", "init_args", "network_weights")},
        "trainer os": lambda whole: whole | {"trainer_name": "os"},
        "configuration 2d": lambda whole: whole | {"init_args": {"configuration": "2d"}},
        "mirroring xyz": lambda whole: whole | {"inference_allowed_mirroring_axes": "xyz"},
        "not numbers": partial(weights, lambda each: each * np.nan),
        "infinite": partial(weights, lambda each: each + np.inf),
        "other shapes": partial(weights, lambda each: each[:-1] if each.ndim else each[None]),
        "no tensors": partial(weights, lambda _: 3.0),
        "payload": lambda whole: whole | {"extra": payload},
    }  # fmt: skip
    streams = {
        "empty": lambda _: b"",
        "text": lambda _: b"no checkpoint",
        "half": lambda raw: raw[: len(raw) // 2],
        "the end is missing": lambda raw: raw[:-100],
        "payload alone": lambda _: pickle.dumps(payload),
    }
    changes = {name: partial(content, each) for name, each in changed.items()}
    changes |= {name: partial(stream, each) for name, each in streams.items()}
    return changes | {name: partial(strange, each) for name, each in bounds.STRANGE.items()}


def malformed_models() -> Iterator[Malformed]:
    """Yield every wrong field of the JSON files, and every damage of the checkpoint."""

    def field(file, place, value, work):
        path = work / MODEL / file
        path.write_text(json.dumps(doors.mutated(json.loads(path.read_text()), place, value)))

    def checkpoint(change, work):
        change(work / CHECKPOINT)

    def hub(work):
        (work / "hubconf.py").write_text("import os; os.mkdir('marker')")
        arguments = {"repo_or_dir": str(work), "model": "net", "source": "local"}
        architecture = {
            "network_class_name": "torch.hub.load",
            "arch_kwargs": arguments,
            "_kw_requires_import": [],
        }
        field("plans.json", (*doors.SETTINGS, "architecture"), architecture, work)

    for file, rows in {"plans.json": doors.PLANS, "dataset.json": doors.DATASET}.items():
        for place, value in rows:
            change = partial(field, file, place, value)
            key = next(key for key in reversed(place) if isinstance(key, str) and len(key) > 4)
            yield Malformed("model", f"{file} {doors.named(place, value)}", change, (file, key))
    changes = {name: partial(checkpoint, change) for name, change in damages_of_checkpoints().items()}
    names = ("checkpoint_final.pth", "fold_0", "trainer os", "configuration 2d")
    for name, change in changes.items():
        yield Malformed("model", f"checkpoint: {name}", change, names)
    yield Malformed("model", "plans.json: torch.hub", hub, ("plans.json",))


def malformed_arguments() -> Iterator[Malformed]:
    """Yield wrong arguments; each is what a message has to name."""
    for option, value in [
        *(
            ("-i", "absent"),
            ("-i", "nnUNet_results"),
            ("-i", "scans/a_0000.nii.gz"),
            ("-o", "scans/a_0000.nii.gz"),
        ),
        *(("-o", "/proc/masks"), ("-f", "7"), ("-f", "x"), ("-chk", "absent.pth"), ("-device", "tpu")),
        *(
            ("-device", "cuda"),
            ("-step_size", "0"),
            ("-step_size", "nan"),
            ("-d", "502"),
            ("-c", "3d_lowres"),
        ),
        *(("-tr", "absent"), ("-part_id", "5"), ("-num_parts", "0"), ("-npp", "-1")),
    ]:
        yield Malformed(
            "argument",
            f"{option} {value}",
            lambda _: None,
            (value, option),
            "SimpleITKIO",
            f"{option} {value}",
        )
