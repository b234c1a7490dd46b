"""nnU-Net's predictor with another end: the operating point, and no processes where none are wanted."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.helpers import empty_cache
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from sgnet_nnunet.inference.preprocessing import PreprocessingHere
from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.operating_point.apply import apply_operating_point
from sgnet_nnunet.operating_point.point import OperatingPoint

WAITING = 2
"""Predictions that may wait for each export process, as in nnU-Net, lest they fill the memory."""


class Predictor(nnUNetPredictor):
    """nnU-Net's predictor, whose masks are cut at an operating point if it has one.

    Reading, preprocessing, the sliding window, folds and mirroring are nnU-Net's; without an operating
    point so is the export. With 0 processes for preprocessing or export, that is done in this process:
    on a CPU the network needs all cores anyway, and each process takes seconds to start.

    Attributes:
        operating_point: The point, or None for nnU-Net's own segmentation.
    """

    operating_point: OperatingPoint | None = None

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str | None] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterable[dict[str, Any]]:
        """Return an iterator over preprocessed cases; it is nnU-Net's unless there are no processes."""
        if num_processes:
            return super()._internal_get_data_iterator_from_lists_of_filenames(
                input_list_of_lists, seg_from_prev_stage_files, output_filenames_truncated, num_processes
            )
        previous = seg_from_prev_stage_files or []
        return PreprocessingHere(
            input_list_of_lists,
            # A list of None is nnU-Net's way to say that there is no previous stage.
            previous if any(previous) else None,
            self.configuration_manager.preprocessor_class(verbose=self.verbose_preprocessing),
            output_filenames_truncated,
            self.plans_manager,
            self.dataset_json,
            self.configuration_manager,
        )

    def predict_from_data_iterator(
        self,
        data_iterator: Iterable[dict[str, Any]],
        save_probabilities: bool = False,
        num_processes_segmentation_export: int = 0,
    ) -> None:
        """Predict and export each case of an iterator over preprocessed files.

        Args:
            data_iterator: nnU-Net's dictionaries `data`, `data_properties` and `ofile`.
            save_probabilities: Also write the `.npz` and `.pkl` that nnU-Net writes.
            num_processes_segmentation_export: Processes that resample and write; 0 for this one.
        """
        export = self._export()
        with _submitter(num_processes_segmentation_export) as submit:
            for case in data_iterator:
                logits = self.predict_logits_from_preprocessed_data(_data_of(case)).cpu().numpy()
                submit(
                    export,
                    logits,
                    case["data_properties"],
                    self.configuration_manager,
                    self.plans_manager,
                    self.dataset_json,
                    case["ofile"],
                    save_probabilities,
                )
        empty_cache(self.device)

    def _export(self) -> Callable[..., object]:
        if self.operating_point is None:
            return export_prediction_from_logits
        return partial(export_at_point, point=self.operating_point)


def export_at_point(
    logits: NDArray[np.floating],
    properties: dict[str, Any],
    configuration: ConfigurationManager,
    plans: PlansManager,
    dataset: dict[str, Any],
    truncated_path: str,
    save_probabilities: bool,
    *,
    point: OperatingPoint,
) -> None:
    """Write one case's mask at an operating point, as nnU-Net writes its own.

    Args:
        logits: Shape (classes or regions, z, y, x) on the network's grid.
        properties: What nnU-Net's reader and preprocessor know of the case.
        configuration: nnU-Net's configuration manager.
        plans: nnU-Net's plans manager.
        dataset: The content of `dataset.json`.
        truncated_path: The mask's path without its ending.
        save_probabilities: Also write the probabilities as `.npz`, on the image's grid.
        point: The operating point.
    """
    labels = plans.get_label_manager(dataset)
    _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, properties, return_probabilities=True
    )
    if save_probabilities:
        _save_probabilities(truncated_path, probabilities, properties)
    mask = apply_operating_point(probabilities, point, labels, tuple(properties["spacing"]))
    with atomic_path(Path(truncated_path + dataset["file_ending"])) as partial_path:
        plans.image_reader_writer_class().write_seg(mask, str(partial_path), properties)


def _save_probabilities(
    truncated_path: str, probabilities: NDArray[np.floating], properties: dict[str, Any]
) -> None:
    """Write what nnU-Net's ensembles, and `sgnet tune`, read."""
    with atomic_path(Path(f"{truncated_path}.npz")) as partial_path:
        np.savez_compressed(partial_path, probabilities=probabilities)
    with atomic_path(Path(f"{truncated_path}.pkl")) as partial_path:
        save_pickle(properties, str(partial_path))


def _data_of(case: dict[str, Any]) -> torch.Tensor:
    """Return a preprocessed image, which nnU-Net's workers hand over as a file if it is large."""
    data: torch.Tensor | str = case["data"]
    if isinstance(data, torch.Tensor):
        return data
    path = Path(data)
    image = torch.from_numpy(np.load(path))
    path.unlink()
    return image


@contextmanager
def _submitter(processes: int) -> Iterator[Callable[..., None]]:
    """Yield a function that calls another one in a pool, or here without processes."""
    if not processes:
        yield lambda function, *arguments: function(*arguments) and None
        return
    waiting: deque[Future[object]] = deque()
    # spawn, for a fork of a process with threads can deadlock.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:

        def submit(function: Callable[..., object], *arguments: object) -> None:
            while len(waiting) >= processes * WAITING:
                waiting.popleft().result()
            waiting.append(pool.submit(function, *arguments))

        yield submit
        for future in waiting:
            future.result()
