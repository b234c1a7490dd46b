"""nnU-Net's predictor with engines for its sliding window, and stages that overlap."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.helpers import empty_cache

from sgnet_nnunet.engine.engine import Engine
from sgnet_nnunet.inference.mirroring import Mirrored
from sgnet_nnunet.inference.pipeline import ahead, behind
from sgnet_nnunet.inference.preprocessing import CaseFiles, Setup, preprocess
from sgnet_nnunet.inference.writing import Writer
from sgnet_nnunet.operating_point.point import OperatingPoint


class SGNetPredictor(nnUNetPredictor):
    """nnU-Net's predictor, whose network may see whole images.

    Reading, preprocessing, folds and the resampling of masks are nnU-Net's; without an engine so is the
    sliding window. With 0 processes for preprocessing or export, a thread of this process does it while
    the network works on another case: on a CPU the network needs all cores, and each process takes
    seconds to start.

    Attributes:
        open_engine: Returns the network with the weights of all folds; None for nnU-Net's sliding window.
        engine: What it has returned.
        operating_point: Where masks are cut, or None for nnU-Net's own segmentation.
        on_case: Called for each case that is written.
    """

    open_engine: Callable[[], Engine | None] = staticmethod(lambda: None)
    engine: Engine | None = None
    operating_point: OperatingPoint | None = None
    on_case: Callable[[], object] = staticmethod(lambda: None)

    @property
    def setup(self) -> Setup:
        """What preprocessing and export need to know of the model."""
        return Setup(self.plans_manager, self.configuration_manager, self.dataset_json)

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (heads, z, y, x).

        Args:
            data: A preprocessed image, shape (channels, z, y, x).
        """
        if self.engine is None:
            return super().predict_logits_from_preprocessed_data(data)
        axes = self.allowed_mirroring_axes if self.use_mirroring else None
        engine = Mirrored(self.engine, axes) if axes else self.engine
        return torch.from_numpy(engine.logits(data.numpy().astype(np.float32, copy=False)))

    def _internal_get_data_iterator_from_lists_of_filenames(
        self,
        input_list_of_lists: list[list[str]],
        seg_from_prev_stage_files: list[str | None] | None,
        output_filenames_truncated: list[str] | None,
        num_processes: int,
    ) -> Iterable[dict[str, Any]]:
        """Return an iterator over preprocessed cases, the next one at work while one is used."""
        nothing = [None] * len(input_list_of_lists)
        jobs = [
            CaseFiles(tuple(images), output, previous)
            for images, output, previous in zip(
                input_list_of_lists,
                output_filenames_truncated or nothing,
                seg_from_prev_stage_files or nothing,
                strict=True,
            )
        ]
        return ahead(partial(preprocess, setup=self.setup), jobs, processes=min(num_processes, len(jobs)))

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
            num_processes_segmentation_export: Processes that resample and write; 0 for a thread.
        """
        # The first case is being read.
        self.engine = self.open_engine()
        processes = num_processes_segmentation_export
        writer = Writer(
            setup=self.setup,
            point=self.operating_point,
            save_probabilities=save_probabilities,
            # nnU-Net's 8, set for the whole process, would slow the network of the next case.
            threads=max(torch.get_num_threads() // max(processes, 1), 1),
        )
        with behind(processes=processes, on_done=self.on_case) as submit:
            for case in data_iterator:
                logits = self.predict_logits_from_preprocessed_data(data_of(case)).cpu().numpy()
                submit(writer.write_logits, logits, case["data_properties"], case["ofile"])
        empty_cache(self.device)


def data_of(case: dict[str, Any]) -> torch.Tensor:
    """Return a preprocessed image, which nnU-Net's workers hand over as a file if it is large."""
    data = case["data"]
    if isinstance(data, str):
        path = Path(data)
        data = np.load(path)
        path.unlink()
    return torch.as_tensor(data)
