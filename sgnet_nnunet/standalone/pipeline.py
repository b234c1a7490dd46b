"""A folder of images in, masks out: while the network works, the next case is read and the last written."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.engine.engine import Engine
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.standalone.cases import find_cases
from sgnet_nnunet.standalone.plan import Plan
from sgnet_nnunet.standalone.preprocess import Prepared, preprocess
from sgnet_nnunet.standalone.read import reader_class
from sgnet_nnunet.standalone.segmentation import probabilities_on_image, segment
from sgnet_nnunet.standalone.write import write_beside, write_mask, write_probabilities

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
