"""How fast a trained gated model predicts, beside nnU-Net's own prediction, and whether they agree.

    python benchmarks/inference.py MODEL IMAGES benchmarks/results
    python benchmarks/inference.py MODEL IMAGES benchmarks/results --parts network --stock-rounds 1

MODEL is the folder of a training, such as `make demo` leaves at
demo_output/nnUNet_results/Dataset501_BrainMetsLung/SGNetTrainer__nnUNetPlans__3d_fullres, IMAGES the test
images there, demo_output/nnUNet_raw/Dataset501_BrainMetsLung/imagesTs. Parts that have been measured stay
unless named by --parts. Run it on an idle machine: two cores take about an hour, half of it with
--stock-rounds 1.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from inference_speed.pinning import pin

CORES = 2

logger = logging.getLogger("inference")


def main(
    model: Annotated[Path, typer.Argument(help="Folder of a training, TRAINER__PLANS__CONFIGURATION.")],
    images: Annotated[Path, typer.Argument(help="Folder of images; references in labelsTs beside it.")],
    results: Annotated[Path, typer.Argument(help="Where inference.json, .md and difference.png go.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of our ways; medians count.")] = 5,
    stock_rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of nnU-Net's ways, minutes each by its defaults.")
    ] = 5,
    parts: Annotated[
        str | None,
        typer.Option(
            help="Parts to measure, even if they have been, separated by commas: network, agreement, "
            "patient, batch, growth, memory; all that are missing by default."
        ),
    ] = None,
    fold: Annotated[str, typer.Option(help="Fold of the model.")] = "0",
    compared: Annotated[int, typer.Option(min=1, help="Patients of the agreement.")] = 4,
    patients: Annotated[int, typer.Option(min=1, help="Patients of the largest batch.")] = 20,
    stock_patients: Annotated[int, typer.Option(min=1, help="Patients of nnU-Net's batch.")] = 3,
    million_voxels: Annotated[float, typer.Option(min=0.1, help="Largest image of the growth.")] = 101,
    volume: Annotated[str, typer.Option(help="x,y,z of the large image of the memory.")] = "512,512,400",
    max_memory: Annotated[float, typer.Option(min=0.1, help="Its budget in GB.")] = 4,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for what is made on the way, kept; else a temporary one.")
    ] = None,
) -> None:
    """Measure and write the results, part by part."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    pin(CORES)
    from inference_speed.results import PARTS, add_part, read_results  # noqa: PLC0415
    from inference_speed.subject import find_subject, nnunet_paths  # noqa: PLC0415

    wanted = parts.split(",") if parts else [name for name in PARTS if name not in read_results(results)]
    for part in wanted:
        if part not in PARTS:
            raise typer.BadParameter(f"{part}: there is no such part; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        subject = find_subject(model, images, folder or Path(temporary), fold=fold)
        os.environ |= nnunet_paths(subject.work)
        import torch  # noqa: PLC0415
        from inference_speed.agreement import measure_agreement  # noqa: PLC0415
        from inference_speed.batch import measure_batch  # noqa: PLC0415
        from inference_speed.growth import measure_growth  # noqa: PLC0415
        from inference_speed.memory import measure_memory  # noqa: PLC0415
        from inference_speed.network import measure_network  # noqa: PLC0415
        from inference_speed.patient import measure_patient  # noqa: PLC0415

        torch.set_num_threads(CORES)
        in_turn = {"rounds": rounds, "stock_rounds": stock_rounds}
        measure: dict[str, Callable[[], dict[str, Any]]] = {
            "network": partial(measure_network, subject, **in_turn),
            "agreement": partial(
                measure_agreement, subject, patients=compared, picture=results / "difference.png"
            ),
            "patient": partial(measure_patient, subject, **in_turn),
            "batch": partial(
                measure_batch, subject, patients=patients, stock_patients=stock_patients, **in_turn
            ),
            "growth": partial(measure_growth, subject, rounds=rounds, million_voxels=million_voxels),
            "memory": partial(
                measure_memory, subject, shape=tuple(map(int, volume.split(","))), max_memory=max_memory
            ),
        }
        for part in wanted:
            logger.info("part: %s", part)
            circumstances = _circumstances()
            add_part(results, part, circumstances | measure[part]())


def _circumstances() -> dict[str, Any]:
    """Return what every part's figures depend on."""
    from importlib.metadata import version  # noqa: PLC0415

    import torch  # noqa: PLC0415
    from training_speed.machine import describe_machine  # noqa: PLC0415

    machine = describe_machine(torch.device("cpu"))
    machine["versions"]["openvino"] = version("openvino")
    return {
        "command": " ".join(["python", "benchmarks/inference.py", *sys.argv[1:]]),
        "machine": machine,
        "load_before": os.getloadavg()[0],
    }


if __name__ == "__main__":
    typer.run(main)
