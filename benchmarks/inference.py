"""Speed and agreement of `sgnet predict` and nnU-Net's own prediction, on the same checkpoint in one run.

    python benchmarks/inference.py MODEL IMAGES benchmarks/results
    python benchmarks/inference.py MODEL IMAGES benchmarks/results --parts network --stock-rounds 1

MODEL is the folder of a training, such as `make demo` leaves at
demo_output/nnUNet_results/Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres, IMAGES the test
images there, demo_output/nnUNet_raw/Dataset501_BrainMetsLung/imagesTs. Every row states its step size and
whether mirrored images are averaged; only rows with the same mirroring are compared. Rows with mirroring are
measured where the checkpoint allows it. `--parts` measures some parts and keeps the results of the others.
Run it on an idle machine; two cores take about half an hour.
"""

import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import pandas as pd
import typer
from inference_engines import (
    SPARSE,
    Setting,
    Subject,
    find_subject,
    measure_agreement,
    measure_growth,
    measure_network,
    with_ratios,
)
from numpy.typing import NDArray
from timing import Spent, describe_machine, in_turn, machine_line, markdown, pin, run_measured

from sgnet_nnunet.demo import nnunet_paths
from sgnet_nnunet.files import write_text

CORES = 2
PATIENT_SHAPE = (240, 240, 155)
"""x, y, z in voxels: images of the parts `patient` and `batch` are padded to at least this shape (BraTS)."""

EXPORTED, TRAINED = "sgnet predict, exported model", "sgnet predict, trained model"
STOCK = "nnUNetv2_predict"


def commands_of(subject: Subject) -> dict[Setting, list[str | Path]]:
    """Return the command line of each setting, without its input and output folder."""
    ours: list[str | Path] = ["sgnet", "predict", "-m", subject.exported]
    stock: list[str | Path] = ["nnUNetv2_predict_from_modelfolder", "-m", subject.model, "-f", subject.fold]
    stock += ["-device", "cpu"]
    commands: dict[Setting, list[str | Path]] = {
        Setting(name=EXPORTED): ours,
        Setting(name=TRAINED): [*ours[:3], subject.model, "-f", subject.fold, "-device", "cpu"],
        Setting(name=STOCK, step=0.5): [*stock, "--disable_tta"],
        Setting(name=STOCK, step=0.75): [*stock, "--disable_tta", "-step_size", "0.75"],
    }
    if subject.mirroring_axes:
        commands |= {
            Setting(name=EXPORTED, mirroring=True): [*ours, "--tta"],
            Setting(name=STOCK, step=0.5, mirroring=True): stock,
        }
    return commands


def predict_images(subject: Subject, command: Sequence[str | Path], images: Path, name: str) -> Spent:
    """Run one of `commands_of` on a folder of images; the masks go to `masks/NAME` of the work folder."""
    arguments = [*command, "-i", images, "-o", subject.work / "masks" / name]
    return run_measured(arguments, log=subject.work / "logs" / f"{name}.log")


def measure_patient(subject: Subject, *, rounds: int, stock_rounds: int) -> dict[str, Any]:
    """Time one patient in fresh processes, from the start of the command to the mask on disk."""
    images = subject.work / "patient"
    shape = write_padded(subject.cases[subject.first], images, PATIENT_SHAPE)
    commands = commands_of(subject)
    found = in_turn(
        {
            setting.text: partial(predict_images, subject, command, images, f"patient_{number}")
            for number, (setting, command) in enumerate(commands.items())
        },
        {setting.text: stock_rounds if setting.name == STOCK else rounds for setting in commands},
    )
    rows = [asdict(setting) | _medians(found[setting.text]) for setting in commands]
    return {
        "case": subject.first,
        "shape_xyz": list(shape),
        "channels": len(subject.cases[subject.first]),
        "rows": with_ratios(rows, stock=STOCK),
    }


def _medians(rounds: Sequence[Spent]) -> dict[str, Any]:
    return {
        "seconds": statistics.median(spent.seconds for spent in rounds),
        "peak_mb": max(spent.peak_mb for spent in rounds),
        "rounds": [spent.seconds for spent in rounds],
    }


def measure_batch(
    subject: Subject, *, rounds: int, stock_rounds: int, patients: int, stock_patients: int
) -> dict[str, Any]:
    """Time several patients in one command; nnU-Net has its own number of rounds and of patients.

    The patients of the subject are repeated under other names; `patients` is the size of the largest batch.
    """
    commands = commands_of(subject)
    sizes = [*(size for size in (1, 5) if size < patients), patients]
    batches = [(Setting(name=EXPORTED), size) for size in sizes]
    batches += [(Setting(name=TRAINED), patients), (Setting(name=STOCK, step=0.5), stock_patients)]
    found = in_turn(
        {
            f"{setting.text}, {size}": partial(
                predict_images, subject, commands[setting], write_batch(subject, size), f"batch_{n}_{size}"
            )
            for n, (setting, size) in enumerate(batches)
        },
        {f"{s.text}, {size}": stock_rounds if s.name == STOCK else rounds for s, size in batches},
    )
    rows = [
        asdict(setting) | {"patients": size} | _medians(found[f"{setting.text}, {size}"])
        for setting, size in batches
    ]
    return {"distinct": len(subject.cases), "rows": rows}


def write_batch(subject: Subject, size: int) -> Path:
    """Return a folder of `size` padded patients, hard links to the distinct ones."""
    folder, source = subject.work / f"batch_{size}", subject.work / "padded"
    if not source.exists():
        for paths in subject.cases.values():
            write_padded(paths, source, PATIENT_SHAPE)
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(islice(cycle(subject.cases), size)):
        for channel, path in enumerate(subject.cases[case]):
            link = folder / f"patient{number:03d}_{channel:04d}{subject.ending}"
            if not link.exists():
                os.link(source / path.name, link)
    return folder


def write_padded(paths: Sequence[Path], folder: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Write a patient's images padded with zeros on all sides to at least `shape`; return the new shape.

    The shapes are x, y, z in voxels; the names of the files, NIfTI, are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result: NDArray[Any] = np.zeros(0)
    for path in paths:
        image = nib.load(path)
        data = np.asanyarray(image.dataobj)
        missing = [max(length - own, 0) for length, own in zip(shape, data.shape, strict=True)]
        before = [count // 2 for count in missing]
        result = np.pad(data, [(b, count - b) for b, count in zip(before, missing, strict=True)])
        affine = image.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ before
        nib.save(nib.Nifti1Image(result, affine), folder / path.name)
    return result.shape


def measure_memory(subject: Subject, *, shape: tuple[int, ...], max_memory: float) -> dict[str, Any]:
    """Predict a large image with a memory limit in GB and without, and compare the masks.

    The first patient's image, repeated, makes the large one; `shape` is its x, y, z in voxels of 1 mm.
    """
    images = subject.work / "large"
    images.mkdir(exist_ok=True)
    for channel, path in enumerate(subject.cases[subject.first]):
        volume = np.asanyarray(nib.load(path).dataobj)
        indices = [np.arange(length) % own for length, own in zip(shape, volume.shape, strict=True)]
        large = nib.Nifti1Image(volume[np.ix_(*indices)], np.eye(4))
        nib.save(large, images / f"large_{channel:04d}{subject.ending}")
    limits: dict[str, list[str | Path]] = {
        f"{max_memory:g} GB": ["--max-memory", f"{max_memory:g}"],
        "free memory": [],
    }
    rows, masks = [], []
    for number, (name, option) in enumerate(limits.items()):
        command: list[str | Path] = ["sgnet", "predict", "-m", subject.exported]
        spent = predict_images(subject, [*command, *option], images, f"large_{number}")
        rows.append({"--max-memory": name, "seconds": spent.seconds, "peak MB": spent.peak_mb})
        mask = nib.load(subject.work / f"masks/large_{number}/large{subject.ending}")
        masks.append(np.asarray(mask.dataobj, dtype=np.uint8))
    return {
        "command_line": EXPORTED,
        "shape_xyz": list(shape),
        "rows": rows,
        "voxels_that_differ": int(np.count_nonzero(masks[0] != masks[1])),
        "mask_voxels": int(np.count_nonzero(masks[1])),
    }


def _timed_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of the parts `network`, `patient` and `batch` as a table."""
    frame = pd.DataFrame(figures["rows"])
    table = pd.DataFrame({"": frame["name"]})
    table["step"] = frame["step"].map("{:g}".format, na_action="ignore").fillna("whole image")
    table["mirroring"] = frame["mirroring"].map({True: "yes", False: "no"})
    if "patients" in frame:
        table["patients"] = frame["patients"]
        table["s a patient"] = (frame["seconds"] / frame["patients"]).map("{:.2f}".format)
    table["seconds"] = frame["seconds"].map("{:.3g}".format)
    table["rounds"] = frame["rounds"].map(len)
    if "peak_mb" in frame:
        table["peak MB"] = frame["peak_mb"].map("{:.0f}".format)
    for column in frame.filter(like="times_step_"):
        step = str(column).removeprefix("times_step_")
        table[f"times as fast as step {step}, same mirroring"] = frame[column].map(
            "{:.1f}".format, na_action="ignore"
        )
    return table


def _plain_table(figures: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of the parts `growth` and `memory` as a table."""
    table = pd.DataFrame(figures["rows"]).round(2)
    return table.astype(dict.fromkeys(table.columns.intersection(["ns per voxel", "peak MB"]), int))


def _title(part: str, figures: Mapping[str, Any]) -> str:
    """Return the sentences above the table of a part."""
    if part == "network":
        z, y, x = figures["shape"][1:]
        return (
            f"The network alone on one preprocessed image of {z} x {y} x {x} voxels (z, y, x), brain in "
            f"{figures['brain_share']:.0%}, the finest gate open in {figures['open_share']:.2%}. Medians."
        )
    if part == "patient":
        shape = " x ".join(map(str, figures["shape_xyz"]))
        return (
            f"One patient from the start of the command to the mask on disk: {figures['channels']} files of "
            f"{shape} voxels (x, y, z). Median time, largest memory of all processes."
        )
    if part == "batch":
        return f"Several patients in one command, {figures['distinct']} distinct ones repeated. Medians."
    if part == "growth":
        return (
            f"The image repeated along its axes; {figures['engine']}. Medians of {figures['rounds']} rounds."
        )
    shape = " x ".join(map(str, figures["shape_xyz"]))
    return (
        f"An image of {shape} voxels (x, y, z), {figures['command_line']}. The masks differ in "
        f"{figures['voxels_that_differ']} voxels; the mask has {figures['mask_voxels']}."
    )


def _agreement(figures: Mapping[str, Any]) -> str:
    """Return the tables of the agreement as Markdown."""
    rows = pd.DataFrame(figures["rows"])
    rows["dice"] = rows["dice"].map("{:.4f}".format)
    rows.columns = ["patient", f"{SPARSE} compared with", "Dice", "voxels that differ"]
    patch = " x ".join(map(str, figures["patch_size"]))
    title = (
        f"Masks on the network's grid, without mirroring. The plan's tiles are {patch} voxels (z, y, x), "
        "step 0.5; one tile is as large as the image."
    )
    blocks = [title, markdown(rows)]
    if figures["scores"]:
        scores = pd.DataFrame(figures["scores"])
        numbers = scores.columns[2:]
        scores[numbers] = scores[numbers].map("{:.3f}".format)
        blocks += ["Compared with the reference:", markdown(scores)]
    return "\n\n".join([*blocks, "![Where the masks differ](difference.png)"])


def to_markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of the parts that have been measured, each with its command."""
    blocks, machine = ["# Speed and agreement of prediction"], ""
    for part, figures in results.items():
        if machine != (machine := machine_line(figures["machine"])):
            blocks.append(machine)
        blocks += [f"## {part.capitalize()}", f"`{figures['command']}`"]
        if part == "agreement":
            blocks.append(_agreement(figures))
        else:
            plain = {"growth", "memory"}
            table = _plain_table(figures) if part in plain else _timed_table(figures)
            blocks += [_title(part, figures), markdown(table)]
    return "\n\n".join(blocks) + "\n"


PARTS = ("network", "agreement", "patient", "batch", "growth", "memory")


def read_results(folder: Path) -> dict[str, Any]:
    """Return what has been measured so far, by part."""
    path = folder / "inference.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def add_part(folder: Path, part: str, figures: Mapping[str, Any]) -> None:
    """Add a part to `inference.json` and write `inference.md` anew."""
    found = read_results(folder) | {part: dict(figures)}
    document = {name: found[name] for name in PARTS if name in found}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "inference.json", json.dumps(document, indent=1) + "\n")
    write_text(folder / "inference.md", to_markdown(document))


def main(
    model: Annotated[Path, typer.Argument(help="Folder of a training, TRAINER__PLANS__CONFIGURATION.")],
    images: Annotated[Path, typer.Argument(help="Folder of images; references in labelsTs next to it.")],
    results: Annotated[Path, typer.Argument(help="Output folder: inference.json, .md and difference.png.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of sgnet predict; medians count.")] = 5,
    stock_rounds: Annotated[int, typer.Option(min=1, help="Rounds of nnU-Net.")] = 3,
    parts: Annotated[str, typer.Option(help="Parts to measure, comma-separated.")] = ",".join(PARTS),
    fold: Annotated[str, typer.Option(help="Fold of the model.")] = "0",
    compared: Annotated[int, typer.Option(min=1, help="Patients of the part `agreement`.")] = 4,
    patients: Annotated[int, typer.Option(min=1, help="Patients of the largest batch.")] = 20,
    stock_patients: Annotated[int, typer.Option(min=1, help="Patients of nnU-Net's batch.")] = 3,
    million_voxels: Annotated[float, typer.Option(min=0.1, help="Largest image of `growth`.")] = 121,
    volume: Annotated[str, typer.Option(help="x,y,z of the image of `memory`.")] = "512,512,400",
    max_memory: Annotated[float, typer.Option(min=0.1, help="Memory limit of `memory` in GB.")] = 4,
    folder: Annotated[
        Path | None, typer.Option(help="Work folder, kept; a temporary one by default.")
    ] = None,
) -> None:
    """Measure and write the results, part by part."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pin(CORES)
    requested = parts.split(",")
    if unknown := set(requested) - set(PARTS):
        raise typer.BadParameter(f"unknown parts: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        subject = find_subject(model, images, folder or Path(temporary), fold=fold)
        # nnU-Net reads its paths when it is imported.
        os.environ |= nnunet_paths(subject.work)
        import torch  # noqa: PLC0415

        torch.set_num_threads(CORES)
        turns = {"rounds": rounds, "stock_rounds": stock_rounds}
        shape = tuple(map(int, volume.split(",")))
        measure: dict[str, Callable[[], dict[str, Any]]] = {
            "network": partial(measure_network, subject, **turns),
            "agreement": partial(
                measure_agreement, subject, patients=compared, picture=results / "difference.png"
            ),
            "patient": partial(measure_patient, subject, **turns),
            "batch": partial(
                measure_batch, subject, patients=patients, stock_patients=stock_patients, **turns
            ),
            "growth": partial(measure_growth, subject, rounds=rounds, million_voxels=million_voxels),
            "memory": partial(measure_memory, subject, shape=shape, max_memory=max_memory),
        }
        for part in requested:
            figures = {
                "command": " ".join(["python", "benchmarks/inference.py", *sys.argv[1:]]),
                "machine": describe_machine(torch.device("cpu")),
                "load_before": os.getloadavg()[0],
            }
            add_part(results, part, figures | measure[part]())
    typer.echo((results / "inference.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
