"""How to predict, free of PyTorch so that a command line can be read without it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.operating_point import (
    FILE_NAME,
    OperatingPoint,
    name_of_model,
    read_operating_point,
    warn_of_unused_points,
)
from sgnet_nnunet.inference.engines import Engine, Mirrored
from sgnet_nnunet.inference.exported import is_exported, open_exported, read_export
from sgnet_nnunet.inference.plan import Plan, read_plan
from sgnet_nnunet.inference.postprocessing import (
    probabilities_on_image,
    segment,
    write_beside,
    write_mask,
    write_probabilities,
)
from sgnet_nnunet.inference.preprocessing import Prepared, preprocess
from sgnet_nnunet.nifti import reader_class
from sgnet_nnunet.nnunet import find_cases


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How to predict; the defaults are fit for a CPU.

    Attributes:
        folds: Folds whose networks are averaged; none for all that are trained.
        checkpoint: File name of the weights.
        device: cpu, cuda or mps; None for cuda if there is one, else cpu.
        engine: auto, tiled (nnU-Net's sliding window), whole or sparse.
        runtime: auto, torch or openvino.
        precision: What OpenVINO computes in, f32 or bf16.
        max_memory: Memory that the network may take, in bytes; None to go by what is free.
        step_size: Step of the sliding window in patches.
        mirroring: Also predict mirrored images, and average: up to 8 times slower.
        preprocessing_processes: Processes that preprocess; None for 0 without a GPU.
        export_processes: Processes that resample and write; None for 0 without a GPU.
        continue_prediction: Keep the masks that are there already.
        save_probabilities: Also write each case's probabilities as `.npz`.
        num_parts: Parts that the cases are dealt out to, one a run.
        part_id: The part to predict, from 0.

    Raises:
        SGNetError: If there is no such part.
    """

    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    device: str | None = None
    engine: str = "auto"
    runtime: str = "auto"
    precision: str = "f32"
    max_memory: int | None = None
    step_size: float = 0.5
    mirroring: bool = False
    preprocessing_processes: int | None = None
    export_processes: int | None = None
    continue_prediction: bool = False
    save_probabilities: bool = False
    num_parts: int = 1
    part_id: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.part_id < self.num_parts:
            raise SGNetError(
                f"--part-id {self.part_id}: of {self.num_parts} parts there are 0 to {self.num_parts - 1}; "
                "give one of them, and --num-parts"
            )


logger = logging.getLogger(__name__)


def find_operating_point(
    wanted: str, model_folder: Path, *, model: str | None = None
) -> OperatingPoint | None:
    """Return the operating point to predict at.

    Args:
        wanted: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder, if any.
        model_folder: nnU-Net's folder of the training, or one of `sgnet export`.
        model: The data set's name and the model folder's; None to read them in the folder.

    Raises:
        InputFileError: If the file cannot be used.
        SGNetError: If it was tuned for another model.
    """
    path = model_folder / FILE_NAME if wanted == "auto" else Path(wanted)
    if wanted == "none" or (wanted == "auto" and not path.exists()):
        logger.info("no operating point: nnU-Net's own segmentation")
        return None
    record, model = read_operating_point(path), model or name_of_model(model_folder)
    if record.tuned_for.model != model:
        raise SGNetError(
            f"{path}: was tuned for {record.tuned_for.model}, not for {model}; "
            "tune this model with sgnet tune, or predict with --operating-point none"
        )
    logger.info("operating point of %s: %s", path, record.point)
    return record.point


LARGEST_BESIDE_OTHERS = 1 << 28
"""Bytes of a preprocessed image: a larger one has the memory to itself, from reading to writing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to predict, and what to write.

    Attributes:
        continue_prediction: Keep the masks that are there already.
        save_probabilities: Also write each case's probabilities as `.npz`.
        num_parts: Parts that the cases are dealt out to, one a run.
        part_id: The part to predict, from 0.
    """

    continue_prediction: bool = False
    save_probabilities: bool = False
    num_parts: int = 1
    part_id: int = 0


def predict_folder(
    images: Path,
    output: Path,
    *,
    plan: Plan,
    open_engine: Callable[[], Engine],
    point: OperatingPoint | None = None,
    options: Options | None = None,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict the cases of a folder, and return how many were predicted.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to, and beside them the files that nnU-Net leaves there.
        plan: The model's plan.
        open_engine: Returns the network; called while the first case is read.
        point: Where to cut; None for nnU-Net's own segmentation.
        options: What to predict, and what to write.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case, in another thread.

    Raises:
        InputFileError: If an image is missing, damaged or of another grid than its case's first.
        SGNetError: If the network or the reader does not fit the plan.
    """
    options = options or Options()
    reader_class(plan.reader)
    cases = find_cases(images, file_ending=plan.file_ending, channels=len(plan.channels))
    output.mkdir(parents=True, exist_ok=True)
    write_beside(output, plan, _arguments(images, output, options))
    cases = _wanted(cases, output, plan, options)
    on_start(len(cases))

    def export(name: str, properties: dict[str, Any], logits: NDArray[np.float32]) -> None:
        _export(output, name, properties, logits, plan, point, options)
        on_done()

    # Two threads read channels, one prepares the next case and one exports: NumPy and zlib run without
    # the interpreter's lock.
    with (
        ThreadPoolExecutor(2) as channels,
        ThreadPoolExecutor(1) as reading,
        ThreadPoolExecutor(1) as writing,
    ):
        _run(cases, plan, open_engine, export, channels=channels, reading=reading, writing=writing)
    return len(cases)


def _run(
    cases: Mapping[str, list[Path]],
    plan: Plan,
    open_engine: Callable[[], Engine],
    export: Callable[[str, dict[str, Any], NDArray[np.float32]], None],
    *,
    channels: Executor,
    reading: Executor,
    writing: Executor,
) -> None:
    """Take every case through the network: one is read ahead, and one waits to be written."""

    def read_next() -> Future[Prepared] | None:
        paths = next(following, None)
        return None if paths is None else reading.submit(preprocess, paths, plan, pool=channels)

    if not cases:
        return
    following = iter(cases.values())
    ahead = read_next()
    engine = _fitting(open_engine(), plan)
    behind: Future[None] | None = None
    for name in cases:
        assert ahead is not None  # noqa: S101 - one is read for each name
        prepared = ahead.result()
        alone = prepared.image.nbytes > LARGEST_BESIDE_OTHERS
        ahead = None if alone else read_next()
        logits = engine.logits(prepared.image)
        if behind is not None:
            behind.result()
        behind = writing.submit(export, name, prepared.properties, logits)
        del prepared, logits
        if alone:
            behind.result()
            ahead = read_next()
    if behind is not None:
        behind.result()


def _fitting(engine: Engine, plan: Plan) -> Engine:
    has, needed = (engine.channels, engine.heads), (len(plan.channels), plan.labels.heads)
    if has != needed:
        raise SGNetError(
            f"the network has {has[0]} channels and {has[1]} heads, plans.json and dataset.json ask for "
            f"{needed[0]} and {needed[1]}; export the model anew"
        )
    return engine


def _wanted(
    cases: dict[str, list[Path]], output: Path, plan: Plan, options: Options
) -> dict[str, list[Path]]:
    """Return this part's cases, without those that are there and to be kept."""
    part = dict(list(cases.items())[options.part_id :: options.num_parts])
    if not options.continue_prediction:
        return part
    endings = [plan.file_ending, ".npz"] if options.save_probabilities else [plan.file_ending]
    return {
        name: paths
        for name, paths in part.items()
        if not all((output / f"{name}{ending}").is_file() for ending in endings)
    }


def _export(
    output: Path,
    name: str,
    properties: dict[str, Any],
    logits: NDArray[np.float32],
    plan: Plan,
    point: OperatingPoint | None,
    options: Options,
) -> None:
    if options.save_probabilities:
        write_probabilities(output, name, probabilities_on_image(logits, properties, plan), properties)
    mask = segment(logits, properties, plan, point=point)
    write_mask(output / f"{name}{plan.file_ending}", mask, properties, reader=plan.reader)


def _arguments(images: Path, output: Path, options: Options) -> dict[str, object]:
    """Return the arguments that nnU-Net's `predict_from_files` would have had."""
    return {
        "list_of_lists_or_source_folder": str(images),
        "output_folder_or_list_of_truncated_output_files": str(output),
        "save_probabilities": options.save_probabilities,
        "overwrite": not options.continue_prediction,
        "num_processes_preprocessing": 0,
        "num_processes_segmentation_export": 0,
        "folder_with_segs_from_prev_stage": None,
        "num_parts": options.num_parts,
        "part_id": options.part_id,
    }


FOR_TRAINED_MODELS = {
    "checkpoint": "-chk",
    "step_size": "-step_size",
    "preprocessing_processes": "-npp",
    "export_processes": "-nps",
}
"""Options that an exported model has no use for, by their flags."""


def predict_exported(
    images: Path,
    output: Path,
    *,
    model_folder: Path,
    operating_point: str,
    options: PredictionOptions,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder, and return how many were predicted.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folder: Written by `sgnet export`.
        operating_point: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If a file is missing or damaged.
        SGNetError: If an option is for trained models, or the model does not allow it.
    """
    refuse_options(options)
    export = read_export(model_folder)
    axes = export.mirroring_axes if options.mirroring else ()

    def open_engine() -> Engine:
        engine = open_exported(
            model_folder,
            folds=options.folds,
            precision=options.precision,
            engine=options.engine,
            max_memory=options.max_memory,
        )
        return Mirrored(engine, axes) if axes else engine

    return predict_folder(
        images,
        output,
        plan=read_plan(model_folder, export.configuration),
        open_engine=open_engine,
        point=find_operating_point(operating_point, model_folder, model=export.model),
        options=Options(
            continue_prediction=options.continue_prediction,
            save_probabilities=options.save_probabilities,
            num_parts=options.num_parts,
            part_id=options.part_id,
        ),
        on_start=on_start,
        on_done=on_done,
    )


def refuse_options(options: PredictionOptions) -> None:
    """Check that nothing is asked of an exported model that only a trained one can do.

    Raises:
        SGNetError: If an option is for trained models.
    """
    default = PredictionOptions()
    given = [
        flag
        for name, flag in FOR_TRAINED_MODELS.items()
        if getattr(options, name) not in {getattr(default, name), 0}
    ]
    given += [f"--engine {options.engine}"] if options.engine == "tiled" else []
    given += [f"--runtime {options.runtime}"] if options.runtime == "torch" else []
    given += [f"-device {options.device}"] if options.device not in {None, "cpu"} else []
    if given:
        raise SGNetError(
            f"{', '.join(given)}: not for an exported model, which runs in OpenVINO on the CPU; leave it "
            "out, or name the trained model's folder"
        )


def predict_images(
    images: Path,
    output: Path,
    *,
    model_folders: Sequence[Path],
    operating_point: str = "auto",
    options: PredictionOptions,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder with trained models or an exported one; return how many there are.

    Args:
        images: Folder of images, named as for nnU-Net.
        output: Folder to write the masks to.
        model_folders: Trained models, or one that `sgnet export` has written.
        operating_point: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If a file is missing or damaged.
        SGNetError: If the models, or what the options ask of them, cannot be had.
    """
    # PyTorch and nnU-Net take seconds to import, so each way imports its own.
    if any(is_exported(folder) for folder in model_folders):
        if len(model_folders) > 1:
            raise SGNetError("-m: an exported model is predicted alone; name one, or trained models only")

        return predict_exported(
            images,
            output,
            model_folder=model_folders[0],
            operating_point=operating_point,
            options=options,
            on_start=on_start,
            on_done=on_done,
        )
    if len(model_folders) > 1:
        warn_of_unused_points(operating_point, model_folders)
        from sgnet_nnunet.inference.nnunet_adapter import predict_with_models  # noqa: PLC0415

        return predict_with_models(
            images, output, model_folders=model_folders, options=options, on_start=on_start, on_done=on_done
        )
    from sgnet_nnunet.inference.nnunet_adapter import predict_folder  # noqa: PLC0415

    return predict_folder(
        images,
        output,
        model_folder=model_folders[0],
        operating_point=find_operating_point(operating_point, model_folders[0]),
        options=options,
        on_start=on_start,
        on_done=on_done,
    )
